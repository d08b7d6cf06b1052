"""Drawing of one street scene with its label map, from far to near."""

import math

import cv2
import numpy as np

from dataset.synthetic.painter import NEAR, SUPERSAMPLING, Painter

CLASSES = {
    "road": (128, 64, 128),
    "lane marking": (255, 255, 255),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "vegetation": (107, 142, 35),
    "sky": (70, 130, 180),
    "car": (0, 0, 142),
    "person": (220, 20, 60),
    "pole": (153, 153, 153),
    "traffic sign": (220, 220, 0),
    "traffic light": (250, 170, 30),
    "bicycle": (119, 11, 32),
}
ROAD, MARKING, SIDEWALK, BUILDING, VEGETATION, SKY, CAR, PERSON, POLE, SIGN, LIGHT, BICYCLE = range(len(CLASSES))
VOID = 255  # the bonnet of the camera's own car
_FAR = 150.0
# Strength of the surface texture of each class: fine grain, coarse patches.
_TEXTURE = np.array(
    [(5, 6), (5, 4), (7, 6), (5, 9), (24, 14), (0, 4), (3, 4), (6, 5), (3, 3), (2, 2), (2, 2), (3, 3)], dtype=np.float32
)
_PAINTS = ((170, 30, 30), (40, 70, 140), (210, 212, 214), (48, 48, 52), (120, 124, 128), (200, 170, 60))
_WALLS = ((176, 148, 120), (150, 96, 78), (190, 184, 172), (120, 118, 122), (204, 190, 150), (140, 150, 160))
_SIGN_COLOURS = ((200, 30, 35), (30, 80, 180), (235, 190, 30))


def render_scene(
    size: tuple[int, int], rng: np.random.Generator, difficulty: float, closeness: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a scene.

    Args:
        size: (height, width) in pixels.
        rng: where everything random comes from.
        difficulty: 0 (clear weather, distinct colours of the classes) to 1 (haze, dim light, noise, look-alike
            colours, crowded); more is possible.
        closeness: 0 (as in a street) to 1 (things stand near, and what is thin is twice as thick), for small pictures.

    Returns:
        RGB image, uint8 (H, W, 3), and class numbers with 255 for void, uint8 (H, W).
    """
    street = _Street(size, rng, difficulty, closeness)
    street.draw()
    return street.finish(_TEXTURE, difficulty)


class _Street(Painter):
    def __init__(self, size: tuple[int, int], rng: np.random.Generator, difficulty: float, closeness: float) -> None:
        super().__init__(size, rng, haze=rng.uniform(0.002, 0.004 + 0.014 * difficulty), background=SKY)
        self.difficulty, self.closeness = difficulty, closeness
        self.bulk = 1 + closeness  # of what is thin
        self.curb, self.walk = rng.uniform(4.0, 6.5), rng.uniform(2.2, 4.0)  # half the road, the pavement
        self.camera_x = self.curb * rng.uniform(-0.1, 0.55)
        self.sun_left = bool(rng.integers(2))

    def draw(self) -> None:
        rng = self.rng
        self.draw_sky()
        self.draw_ground()
        for side in (-1, 1):
            self.draw_house_row(side)
        if rng.random() < 0.6:
            edge = self.curb + self.walk
            side, reach = (-1 if self.sun_left else 1), rng.uniform(2, 9)
            self.shade(side * edge, side * (edge - reach), NEAR, rng.uniform(10, 50), 0.6)
        crowd = 0.6 + 0.8 * self.difficulty
        things = []
        for draw, count, spread in (
            (self.draw_tree, 4, 45), (self.draw_post, 5, 40), (self.draw_car, 4, 45),
            (self.draw_person, 4, 26), (self.draw_bicycle, 1.2, 22),
        ):  # fmt: skip
            reach = 4.5 + (spread - 4.5) * (1 - 0.8 * self.closeness)
            things += [(rng.uniform(4.5, reach), draw) for _ in range(rng.poisson(count * crowd))]
        for z, draw in sorted(things, key=lambda thing: -thing[0]):
            draw(z, -1 if rng.integers(2) else 1)
        if rng.random() < 0.3:
            centre = (round(self.width * rng.uniform(0.45, 0.55)), round(self.height * 1.03))
            axes = (round(self.width * 0.45), round(self.height * rng.uniform(0.08, 0.13)))
            self.ellipse(centre, axes, tuple(int(c) for c in rng.integers(15, 70, 3)), VOID)

    def draw_sky(self) -> None:
        rng = self.rng
        overcast = rng.random() < 0.35
        top = self.vary((150, 155, 165) if overcast else (85, 135, 205), 14)
        low = self.vary((205, 208, 212) if overcast else (190, 210, 232), 10)
        share = np.linspace(0, 1, self.height)[:, None, None] * self.height / self.horizon
        self.image[:] = (top + (low - top) * np.clip(share, 0, 1)).astype(np.uint8)
        field = rng.random((5, 8), dtype=np.float32)
        clouds = cv2.resize(field, (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        cover = (np.clip((clouds - 0.55) * 2.2, 0, 0.8) * (1 - np.clip(share[..., 0] - 0.5, 0, 1)))[..., None]
        self.image[:] = (self.image * (1 - cover) + np.array([238, 240, 243]) * cover).astype(np.uint8)

    def draw_ground(self) -> None:
        rng, mix = self.rng, self.difficulty
        asphalt = self.vary((92, 92, 96), 8 + 8 * mix)
        # The harder, the nearer the pavement comes to the colour of the road.
        paving = self.vary(np.array((168, 156, 148)) * (1 - 0.3 * mix) + asphalt * 0.3 * mix, 8 + 8 * mix)
        edge = self.curb + self.walk
        self.ground(-90, 90, NEAR, _FAR, self.vary((95, 125, 62), 12), VEGETATION)
        for side in (-1, 1):
            self.ground(side * self.curb, side * edge, NEAR, _FAR, paving, SIDEWALK)
            self.ground(side * (self.curb - 0.05), side * (self.curb + 0.15), NEAR, _FAR, paving * 0.8, SIDEWALK)
        self.ground(-self.curb, self.curb, NEAR, _FAR, asphalt, ROAD)
        paint = self.vary((222, 220, 210), 8) * rng.uniform(0.75, 1)
        gap, dash, phase = rng.uniform(4, 7), rng.uniform(2, 4), rng.uniform(0, 8)
        for z in np.arange(NEAR - phase, 60, gap + dash):
            if z + dash > NEAR:
                self.ground(-0.1 * self.bulk, 0.1 * self.bulk, z, z + dash, paint, MARKING)
        if rng.random() < 0.6:
            for x in (0.4 - self.curb, self.curb - 0.55):
                self.ground(x, x + 0.15 * self.bulk, NEAR, 80, paint, MARKING)
        if rng.random() < 0.35:
            z = rng.uniform(5, 14)
            for x in np.arange(0.4 - self.curb, self.curb - 0.6, 1.0):
                self.ground(x, x + 0.5, z, z + 3, paint, MARKING)

    def draw_house_row(self, side: int) -> None:
        rng = self.rng
        z, houses = rng.uniform(NEAR, 8), []  # the first house is beside the camera or just in front of it
        while z < 110:
            length = rng.uniform(7, 17)
            if rng.random() < 0.8:
                houses.append((z, z + length, rng.uniform(5, 15), rng.uniform(0, 1.5)))
            z += length + (rng.uniform(2, 10) if rng.random() < 0.3 else 0)
        for z0, z1, top, setback in reversed(houses):
            x = side * (self.curb + self.walk + setback)
            wall = self.vary(_WALLS[rng.integers(len(_WALLS))], 10 + 8 * self.difficulty)
            lit = 1.0 if (side > 0) == self.sun_left else 0.72
            self.facade([x, x + side * 14], 0, top, [z0, z0], wall * 0.86, z0, BUILDING)
            self.facade([x, x], 0, top, [z0, z1], wall * lit, z0, BUILDING)
            glass = self.vary((70, 84, 100), 14)
            bays, floors = max(2, int((z1 - z0) / 2.8)), max(1, int(top / 3))
            for y in [1 + 3 * floor for floor in range(floors)]:
                for bay in range(bays):
                    a, b = (z0 + (z1 - z0) * (bay + part) / bays for part in (0.28, 0.72))
                    pane = (220, 205, 150) if rng.random() < 0.06 else glass * rng.uniform(0.8, 1.2)
                    self.facade([x, x], y, y + 1.5, [a, b], pane, z0, BUILDING)
                for bay in range(4):
                    self.upright(x + side * (2 + 3.2 * bay), y, y + 1.5, 0.6, z0, glass, BUILDING)

    def draw_tree(self, z: float, side: int) -> None:
        rng = self.rng
        x = side * (self.curb + rng.uniform(0.5, self.walk + 3))
        green = self.vary((78, 112, 48), 14) if rng.random() < 0.8 else self.vary((140, 118, 50), 14)
        trunk, radius = rng.uniform(1.6, 2.8), rng.uniform(1.0, 2.0)
        if rng.random() < 0.25:  # a bush
            trunk, radius = 0.3, rng.uniform(0.5, 0.9)
        else:
            self.upright(x, 0, trunk + 0.5, 0.14, z, self.vary((84, 66, 50), 6), VEGETATION)
        for _ in range(14):
            dx, dy = rng.normal(0, 0.5, 2) * radius
            light = 1 + 0.35 * dy / radius + rng.normal(0, 0.08)
            y = trunk + radius * 0.8 + dy * 0.8
            self.disc(x + dx, y, z, radius * 0.5, radius * 0.42, green * light, VEGETATION)

    def draw_post(self, z: float, side: int) -> None:
        rng = self.rng
        x, grey = side * (self.curb + rng.uniform(0.25, 0.8)), self.vary((112, 114, 116), 10)
        kind = rng.random()
        top = rng.uniform(2.3, 3.0) if kind < 0.4 else rng.uniform(2.8, 3.6) if kind < 0.65 else rng.uniform(5, 7)
        b = self.bulk
        self.line((x, 0, z), (x, top, z), 0.13 * b, grey, POLE)
        if kind < 0.4:
            colour, shape = self.vary(_SIGN_COLOURS[rng.integers(3)], 8), rng.integers(3)
            if shape == 0:
                self.disc(x, top, z, 0.4 * b, 0.4 * b, colour, SIGN)
                self.disc(x, top, z, 0.24 * b, 0.24 * b, (232, 232, 228), SIGN)
            elif shape == 1:
                self.upright(x, top - 0.4 * b, top + 0.4 * b, 0.38 * b, z, colour, SIGN)
                self.upright(x, top - 0.12 * b, top + 0.12 * b, 0.22 * b, z, (235, 235, 235), SIGN)
            else:
                corners = [(x - 0.45 * b, top - 0.4 * b, z), (x + 0.45 * b, top - 0.4 * b, z), (x, top + 0.45 * b, z)]
                self.polygon(corners, colour, z, SIGN)
        elif kind < 0.65:
            self.upright(x, top - 0.1 * b, top + 0.95 * b, 0.22 * b, z, (34, 36, 34), LIGHT)
            lit = rng.integers(3)
            for lamp, colour in enumerate(((60, 220, 110), (245, 180, 40), (240, 50, 40))):
                shown = colour if lamp == lit else tuple(c // 4 for c in colour)
                self.disc(x, top + (0.1 + 0.32 * lamp) * b, z, 0.13 * b, 0.13 * b, shown, LIGHT)
        else:
            self.line((x, top, z), (x - side * 1.4, top + 0.2, z), 0.1 * b, grey, POLE)

    def draw_car(self, z: float, side: int) -> None:
        rng = self.rng
        parked = rng.random() < 0.5
        x = side * (self.curb - 1.2 if parked else self.curb * rng.uniform(0.4, 0.5))
        paint = self.vary(_PAINTS[rng.integers(len(_PAINTS))], 12)
        roof, belt, half, length = rng.uniform(1.4, 1.9), 0.95, 0.88, rng.uniform(3.6, 4.6)
        if abs(x - self.camera_x) < 1.6:
            z = max(z, 8.0)
        self.shade(x - 1, x + 1, z - 0.2, z + length, 0.5)
        s = -1 if x > self.camera_x else 1  # the side that shows
        far, inner = z + length, x + s * half
        self.facade([inner, inner], 0.3, belt, [z, far], paint * 0.75, z, CAR)
        self.facade([inner, inner], belt, roof, [z + 0.3, far - 0.9, far - 1.6, z + 0.7], (44, 50, 58), z, CAR)
        for at in (0.8, length - 0.8):
            points = [(inner, 0.33 + 0.33 * math.sin(a), z + at + 0.33 * math.cos(a)) for a in np.linspace(0, 6.28, 12)]
            self.polygon(points, (20, 20, 22), z, CAR)
        for wheel in (-0.62, 0.62):
            self.upright(x + wheel, 0, 0.4, 0.12, z, (20, 20, 22), CAR)
        self.upright(x, 0.25, belt, half, z, paint, CAR)
        self.facade([x - half, x + half, x + 0.66, x - 0.66], belt, roof, [z, z], paint * 0.9, z, CAR)
        window = [x - 0.74, x + 0.74, x + 0.58, x - 0.58]
        self.facade(window, belt + 0.06, roof - 0.1, [z, z], (52, 60, 70), z, CAR)
        for lamp in (-0.7, 0.7):
            self.upright(x + lamp, 0.65, 0.82, 0.14, z, (200, 30, 28) if side > 0 else (235, 230, 200), CAR)

    def draw_person(self, z: float, side: int) -> None:
        x = side * (self.curb + self.rng.uniform(-0.8 - 2.5 * (self.rng.random() < 0.2), self.walk))
        self.paint_person(x, 0, z, self.rng.uniform(1.5, 1.9), self.rng.uniform(0.05, 0.28))

    def paint_person(self, x: float, y: float, z: float, tall: float, stride: float) -> None:
        rng = self.rng
        coat, legs = rng.uniform(25, 215, 3), rng.uniform(20, 110, 3)
        skin = self.vary((205, 160, 130), 12) * rng.uniform(0.5, 1.1)
        for step in (-stride, stride):
            shoulder, hand = (x + step * 0.3, y + 0.8 * tall, z), (x - step * 1.3, y + 0.5 * tall, z)
            self.line((x, y + 0.5 * tall, z), (x + step, y, z), 0.15, legs, PERSON)
            self.line(shoulder, hand, 0.11, coat * 0.85, PERSON)
        self.upright(x, y + 0.45 * tall, y + 0.85 * tall, 0.2, z, coat, PERSON)
        self.disc(x, y + 0.92 * tall, z, 0.11, 0.14, skin, PERSON)

    def draw_bicycle(self, z: float, side: int) -> None:
        rng = self.rng
        x, colour = side * (self.curb - rng.uniform(-1.5, 1.4)), self.vary((60, 60, 70), 20)
        half = rng.uniform(0.3, 0.55)  # as it is seen from an angle
        for wheel in (-half, half):
            (u, v), scale = self.at(x + wheel, 0.34, z), self.focal / z
            axes = (max(1, round(0.34 * scale * half / 0.55)), max(2, round(0.34 * scale)))
            tyre, thickness = self.colour((24, 24, 26), z), max(SUPERSAMPLING, round(0.07 * self.bulk * scale))
            self.ellipse((round(u), round(v)), axes, tyre, BICYCLE, thickness)
        seat, bar, pedal = (x - half * 0.4, 0.85, z), (x + half * 0.75, 0.95, z), (x, 0.34, z)
        rear, front = (x - half, 0.34, z), (x + half, 0.34, z)
        for a, b in ((seat, pedal), (pedal, bar), (seat, bar), (rear, pedal), (front, bar)):
            self.line(a, b, 0.07 * self.bulk, colour, BICYCLE)
        if rng.random() < 0.65:
            self.paint_person(x, 0.5, z, 1.35, 0.12)

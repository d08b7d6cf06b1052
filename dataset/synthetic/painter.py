"""A pinhole camera that paints polygons of a world in metres, with their labels, into a picture.

Coordinates: X to the right of the street's middle, Y up from the ground, Z away from the camera.
"""

import math

import cv2
import numpy as np

NEAR = 1.2  # nearest depth that is drawn
SUPERSAMPLING = 2


class Painter:
    """Picture and label map at twice the requested size; later shapes cover earlier ones."""

    def __init__(self, size: tuple[int, int], rng: np.random.Generator, haze: float, background: int) -> None:
        """Places a camera at random.

        Args:
            size: (height, width) of the finished picture.
            rng: where everything random comes from.
            haze: share of the haze's colour that is mixed in per metre, about.
            background: label of what is not painted.
        """
        self.rng, self.size, self.haze = rng, size, haze
        self.height, self.width = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
        self.image = np.zeros((self.height, self.width, 3), dtype=np.uint8)
        self.mask = np.full((self.height, self.width), background, dtype=np.uint8)
        self.focal = self.width * rng.uniform(0.65, 0.9)
        self.horizon = self.height * rng.uniform(0.38, 0.5)
        self.centre = self.width * rng.uniform(0.35, 0.65)
        self.camera_height, self.camera_x = rng.uniform(1.3, 1.8), 0.0
        self.haze_colour = np.array([205, 212, 220]) - rng.uniform(0, 40)

    def at(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Pixel of a point in the world."""
        scale = self.focal / max(z, NEAR)
        return self.centre + scale * (x - self.camera_x), self.horizon + scale * (self.camera_height - y)

    def colour(self, colour, z: float) -> tuple[int, ...]:
        """A colour seen through the haze."""
        share = 1 - math.exp(-self.haze * z)
        return tuple(int(c) for c in np.clip(np.asarray(colour) * (1 - share) + self.haze_colour * share, 0, 255))

    def vary(self, colour, amount: float) -> np.ndarray:
        """A colour changed a little in brightness and hue."""
        return np.clip(np.asarray(colour) + self.rng.normal(0, amount) + self.rng.normal(0, amount / 3, 3), 0, 255)

    def polygon(self, points, colour, z: float, label: int) -> None:
        """A polygon of points (x, y, z), seen through the haze of depth `z`."""
        corners = np.round([self.at(*point) for point in points]).astype(np.int32).clip(-20000, 20000)
        cv2.fillPoly(self.image, [corners], self.colour(colour, z))
        cv2.fillPoly(self.mask, [corners], label)

    def ground(self, x0: float, x1: float, z0: float, z1: float, colour, label: int) -> None:
        """A strip of the ground; cut into pieces so that haze grows along it."""
        edges = np.geomspace(max(z0, NEAR), z1, 2 + int(4 * math.log(z1 / max(z0, NEAR))))
        for near, far in zip(edges[:-1], edges[1:], strict=True):
            self.polygon([(x0, 0, near), (x1, 0, near), (x1, 0, far), (x0, 0, far)], colour, near, label)

    def facade(self, xs, y0: float, y1: float, zs, colour, z: float, label: int) -> None:
        """An upright quadrangle of heights y0 to y1.

        Args:
            xs, zs: of the two lower and the two upper corners, counter-clockwise; two values are for both.
            z: depth of the haze.
        """
        xs, zs = ([*ends, *ends[::-1]] if len(ends) == 2 else ends for ends in (xs, zs))
        self.polygon(list(zip(xs, (y0, y0, y1, y1), zs, strict=True)), colour, z, label)

    def upright(self, x: float, y0: float, y1: float, half: float, z: float, colour, label: int) -> None:
        """A rectangle that faces the camera."""
        self.facade([x - half, x + half], y0, y1, [z, z], colour, z, label)

    def disc(self, x: float, y: float, z: float, rx: float, ry: float, colour, label: int) -> None:
        """An ellipse that faces the camera, half axes in metres."""
        (u, v), scale = self.at(x, y, z), self.focal / z
        centre, axes = (round(u), round(v)), (max(1, round(rx * scale)), max(1, round(ry * scale)))
        self.ellipse(centre, axes, self.colour(colour, z), label)

    def line(self, start, end, thickness: float, colour, label: int) -> None:
        """A bar between two points at about the same depth, at least a pixel wide in the finished picture."""
        width = max(SUPERSAMPLING, round(thickness * self.focal / start[2]))
        a, b = (tuple(round(c) for c in self.at(*point)) for point in (start, end))
        cv2.line(self.image, a, b, self.colour(colour, start[2]), width)
        cv2.line(self.mask, a, b, label, width)

    def shade(self, x0: float, x1: float, z0: float, z1: float, strength: float) -> None:
        """Darkens a rectangle of the ground, and what was painted there."""
        layer = np.zeros(self.mask.shape, dtype=np.uint8)
        corners = np.round([self.at(x, 0, z) for x, z in ((x0, z0), (x1, z0), (x1, z1), (x0, z1))]).astype(np.int32)
        cv2.fillPoly(layer, [corners.clip(-20000, 20000)], 1)
        dark = layer.astype(bool)
        self.image[dark] = (self.image[dark] * strength).astype(np.uint8)

    def ellipse(self, centre: tuple[int, int], axes: tuple[int, int], colour, label: int, thickness: int = -1) -> None:
        """An ellipse in pixels."""
        cv2.ellipse(self.image, centre, axes, 0, 0, 360, colour, thickness)
        cv2.ellipse(self.mask, centre, axes, 0, 0, 360, label, thickness)

    def finish(self, texture: np.ndarray, hard: float) -> tuple[np.ndarray, np.ndarray]:
        """Texture, light, sensor noise; reduced to the requested size.

        Args:
            texture: strength of fine grain and of coarse patches for each label, (labels, 2).
            hard: how strong light and noise vary, from 0.
        """
        rng, (height, width) = self.rng, self.size
        image = cv2.resize(self.image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        mask = self.mask[::SUPERSAMPLING, ::SUPERSAMPLING].copy()
        strength = np.vstack([texture, np.zeros((256 - len(texture), 2), dtype=np.float32)])[mask]  # H, W, 2
        fine = rng.standard_normal((height, width), dtype=np.float32)
        coarse = rng.standard_normal((height // 6 + 2, width // 6 + 2), dtype=np.float32)
        coarse = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        image += (fine * strength[..., 0] + coarse * strength[..., 1])[..., None] * (0.6 + 0.5 * hard)
        if rng.random() < 0.3 * hard:
            image = cv2.GaussianBlur(image, (3, 3), 0.8)
        light = math.exp(rng.normal(0, 0.06 + 0.16 * hard))
        slope = 1 + np.linspace(-1, 1, width, dtype=np.float32)[None, :, None] * rng.uniform(-0.15, 0.15)
        warmth = 1 + rng.normal(0, 0.02 + 0.05 * hard) * np.array([1, 0, -1], dtype=np.float32)
        noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(1.5, 2 + 10 * hard)
        return np.clip(image * (light * slope * warmth) + noise, 0, 255).astype(np.uint8), mask

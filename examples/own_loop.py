"""CIRKDV2's losses in a training loop of your own: any networks that return `SegOutput`, any data.

python -m examples.own_loop
"""

import torch

from losses import build_distiller
from losses.task import segmentation_loss
from models import build_model
from utils.complexity import distilled_shapes
from utils.types import Step

NUM_CLASSES, CROP, ITERATIONS = 5, (64, 96), 3


def main() -> list[dict[str, float]]:
    """Trains a little on random images; returns the losses of each iteration."""
    torch.manual_seed(0)
    teacher = build_model("psp", "timm:test_resnet", NUM_CLASSES).eval().requires_grad_(False)
    student = build_model("psp_mobile", "timm:test_efficientnet", NUM_CLASSES)
    shapes = distilled_shapes(student, teacher, *CROP)
    sizes = {"pixel_memory_size": 50, "region_memory_size": 20, "channel_memory_size": 100}
    distiller = build_distiller("cirkdv2", num_classes=NUM_CLASSES, config=sizes, **shapes)  # trains with the student
    optimizer = torch.optim.SGD([*student.parameters(), *distiller.parameters()], lr=0.01, momentum=0.9)
    history = []
    for iteration in range(ITERATIONS):
        images = torch.randn(4, 3, *CROP)  # yours: BGR, the mean subtracted; see dataset.loading.transforms.normalize
        target = torch.randint(NUM_CLASSES, (4, *CROP))  # 255 is void
        step = Step(iteration)
        with torch.no_grad():
            guide = teacher(images)
        output = student(images)
        losses = segmentation_loss(output, target, step=step) | distiller(output, guide, target, step)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
        print(iteration, "  ".join(f"{name} {value:.3f}" for name, value in history[-1].items()))
    return history


if __name__ == "__main__":
    main()

"""Labels of images without labels: the teacher's where it is sure, for the terms that need classes."""

import torch

from engine.config.schema import OptimConfig
from engine.config.unlabelled import UnlabelledConfig
from engine.setup.tasks import DistillationTask
from losses.base import Distiller
from losses.unlabelled import UNLABELLED, split_labels, teacher_labels
from utils.types import SegOutput, Step


def test_the_teachers_class_is_taken_where_it_is_sure():
    probabilities = torch.tensor([[0.95, 0.05, 0.0], [0.05, 0.9, 0.05], [0.5, 0.3, 0.2]], dtype=torch.float64)
    logits = (probabilities + 1e-12).log().T[None, :, None]  # (1, 3 classes, 1, 3 pixels)
    assert teacher_labels(logits, (1, 3), 0.8999).tolist() == [[[0, 1, 255]]]
    assert teacher_labels(logits, (1, 3), 0.4).tolist() == [[[0, 1, 0]]]
    assert teacher_labels(logits, (1, 5), 0.93)[0, 0, 0] == 0 and teacher_labels(logits, (4, 5), 1.0).eq(255).all()


def test_only_unlabelled_pixels_take_it():
    logits = torch.full((2, 3, 2, 2), -9.0).index_fill(1, torch.tensor([2]), 9.0)  # class 2 everywhere
    target = torch.tensor([[[0, 255], [1, 1]], [[UNLABELLED, UNLABELLED], [255, UNLABELLED]]])
    task, taught = split_labels(target, logits, 0.9, pseudo_labels=False)
    assert task.tolist() == [[[0, 255], [1, 1]], [[255, 255], [255, 255]]]
    assert taught.tolist() == [[[0, 255], [1, 1]], [[2, 2], [255, 2]]]
    assert torch.equal(split_labels(target, logits, 0.9, pseudo_labels=True)[0], taught)


class Network(torch.nn.Module):
    """One 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = torch.nn.Conv2d(3, 3, 1).double()

    def forward(self, images, need_aux=True):
        return SegOutput(self.classify(images), images)


class Seen(Distiller):
    """Remembers the labels that it got."""

    Config = OptimConfig

    def forward(self, student, teacher, target, step=None):
        self.target = target
        return {}


def test_the_tasks_loss_leaves_images_without_labels_out():
    torch.manual_seed(0)
    images, target = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randint(3, (2, 4, 4))
    target[1] = UNLABELLED
    network, teacher, distiller = Network(), Network(), Seen((3, 4, 4), (3, 4, 4), 3)
    with torch.no_grad():
        teacher.classify.weight.mul_(50)
    sure = teacher(images).logits.softmax(1).max(1)
    for pseudo in (False, True):
        config = UnlabelledConfig(pseudo_threshold=0.9, pseudo_labels=pseudo)
        task = DistillationTask(network, teacher, distiller, unlabelled=config)
        step = Step(0, 0, 2, torch.cat([target, target.new_full((1, 4, 4), UNLABELLED)])) if not pseudo else Step()
        loss = task(images, target, step)["loss_task"]
        labels = target.clone()
        labels[1] = torch.where(sure.values >= 0.9, sure.indices, 255)[1] if pseudo else 255
        each = torch.nn.functional.cross_entropy(network(images).logits, labels, ignore_index=255, reduction="none")
        expected = each.sum() / (labels != 255).sum() * (1 if pseudo else 2)  # the step's other part holds no label
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
        assert (distiller.target[0] == target[0]).all() and (distiller.target[1] != UNLABELLED).all()
        assert 0 < (distiller.target[1] != 255).sum() < 16

"""What trains: (images, target, step) -> named losses. The one module that is wrapped for several processes."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.profiler import record_function

from engine.config.schema import OptimConfig
from engine.config.unlabelled import UnlabelledConfig
from losses.balance import Balance
from losses.base import Distiller
from losses.task import TaskLossConfig, segmentation_loss
from losses.unlabelled import split_labels, without_unlabelled
from utils.types import SegOutput, Step

DEFAULTS = OptimConfig()


class SegmentationTask(nn.Module):
    """A network trained on labels alone.

    Attributes:
        keep_features: keep the features of the next forward pass, with their graph, in `features`.

    Args:
        network: returns a `SegOutput`.
        config: how it learns; with `freeze_bn` batch norms keep to their running statistics while training (their scale
            and shift still learn).
        loss: what the loss on the labels is.
        class_weights: (K,), of its cross entropy; part of the run's state. None: all alike.
    """

    def __init__(
        self,
        network: nn.Module,
        config: OptimConfig = DEFAULTS,
        loss: TaskLossConfig | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network, self.config, self.loss = network, config, loss or TaskLossConfig()
        self.register_buffer("class_weights", class_weights)
        self.keep_features = False
        self.features: Tensor | None = None

    def forward(self, images: Tensor, target: Tensor, step: Step) -> dict[str, Tensor]:
        """Losses by name, weighted, scalars; their sum is what is minimised.

        Args:
            images: (N, 3, H, W) in the convention of the loaders' `normalize`.
            target: (N, H, W) int64 train ids, 255 ignored.
            step: where the micro-batch stands in the run.
        """
        return self.task_losses(self.run_network(images), target, step)

    def task_losses(self, output: SegOutput, target: Tensor, step: Step) -> dict[str, Tensor]:
        """The losses on the labels."""
        with record_function("loss_task"):
            return segmentation_loss(output, target, step=step, config=self.loss, class_weights=self.class_weights)

    def run_network(self, images: Tensor, **options: bool) -> SegOutput:
        """The network's output; its features are kept where `keep_features` asks for it."""
        with record_function("student"):
            output = self.network(images, **options)
        self.features = output.features if self.keep_features else None
        return output

    def train(self, mode: bool = True) -> "SegmentationTask":
        super().train(mode)
        if mode and self.config.freeze_bn:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def discriminator_parameters(self) -> list[nn.Parameter]:
        """Parameters that an optimiser of their own trains, stepped after the main one."""
        return []

    def trained_state(self) -> dict[str, dict[str, Tensor]]:
        """State dictionaries of all that trains, and the weights of the classes, for the run's state."""
        weights = {} if self.class_weights is None else {"task_loss": {"class_weights": self.class_weights}}
        return {"network": self.network.state_dict()} | weights

    def load_trained_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        self.network.load_state_dict(state["network"])
        if self.class_weights is not None:
            self.class_weights.copy_(state["task_loss"]["class_weights"])


class DistillationTask(SegmentationTask):
    """A student trained on labels and on a frozen teacher.

    Args:
        network: the student.
        teacher: stays outside this module's children, in evaluation mode and without gradients.
        distiller: turns both outputs into losses; its own parameters train with the student.
        config: how it learns.
        balance: scales the distiller's terms, or None.
        loss, class_weights: as for `SegmentationTask`.
        unlabelled: what images without labels teach; None where there are none.
    """

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        distiller: Distiller,
        config: OptimConfig = DEFAULTS,
        balance: Balance | None = None,
        loss: TaskLossConfig | None = None,
        class_weights: Tensor | None = None,
        unlabelled: UnlabelledConfig | None = None,
    ) -> None:
        super().__init__(network, config, loss, class_weights)
        self.distiller, self.balance, self.unlabelled = distiller, balance, unlabelled
        # In a tuple it is no child: not trained, not saved, not flipped to training mode, not broadcast.
        self._teacher = (teacher.eval().requires_grad_(False),)

    @property
    def teacher(self) -> nn.Module:
        return self._teacher[0]

    def forward(self, images: Tensor, target: Tensor, step: Step) -> dict[str, Tensor]:
        with torch.no_grad(), record_function("teacher"):
            inner = {"need_inner": True} if self.distiller.needs_inner else {}
            teacher = self.teacher(images, need_aux=self.distiller.needs_teacher_aux, **inner)
        student = self.run_network(images, **inner)
        taught = target
        if self.unlabelled is not None:
            wanted = self.unlabelled
            target, taught = split_labels(target, teacher.logits, wanted.pseudo_threshold, wanted.pseudo_labels)
            step = replace(step, target=None if step.target is None else without_unlabelled(step.target))
        losses = self.task_losses(student, target, step)
        with record_function("distiller"):
            losses |= self.distiller(student, teacher, taught, step)
            return losses if self.balance is None else self.balance(losses, student.features, step)

    def discriminator_parameters(self) -> list[nn.Parameter]:
        return self.distiller.discriminator_parameters()

    def trained_state(self) -> dict[str, dict[str, Tensor]]:
        balance = {} if self.balance is None else {"balance": self.balance.state_dict()}
        return super().trained_state() | {"distiller": self.distiller.state_dict()} | balance

    def load_trained_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        super().load_trained_state(state)
        self.distiller.load_state_dict(state["distiller"])
        if self.balance is not None:
            self.balance.load_state_dict(state["balance"])


def disable_dropout(modules: Iterable[nn.Module]) -> None:
    """Sets every drop probability (of units and of residual paths) to 0."""
    for module in modules:
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        elif hasattr(module, "drop_prob"):
            module.drop_prob = 0.0

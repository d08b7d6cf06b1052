"""The discriminator's own optimiser: what it trains, beside clipping, scaling and accumulation."""

import pytest
import torch
from torch import nn

from engine.run.state import TrainState
from engine.training.nonfinite import NonFiniteCheck
from engine.training.optim import build_discriminator_optimizer, build_optimizer
from engine.training.step import train_step
from engine.training.stopping import RankFlags
from tests.configs import make_config
from tests.conftest import assert_same, metric_lines
from utils.checkpoint import load_file, save_atomic
from utils.types import Batch


@pytest.fixture
def skd(common, distillation) -> list:
    """A tiny run with all of SKD: features, logits, discriminator."""
    start = distillation.index("--teacher-model")
    return [*common, *distillation[start : distillation.index("--skip-teacher-check") + 1], "--method", "skd"]


def state_of(folder) -> dict:
    return load_file(folder / "last_state.pth")


def test_discriminator_alone_is_in_the_second_optimiser(run_main, skd, tmp_path):
    run_main("train_kd", *skd)
    state = state_of(tmp_path / "run")
    (group,) = state["separate_optimizer"]["param_groups"]
    names = [name for name in state["distiller"] if "discriminator" in name]
    trained = [name for name in names if name.rsplit("_", 1)[-1] not in ("u", "v", "mean", "var", "tracked")]
    assert len(group["params"]) == len(trained) == 26
    assert group["lr"] == 4e-4 and tuple(group["betas"]) == (0.9, 0.99) and group["weight_decay"] == 0  # no schedule
    shapes = {tuple(entry["momentum_buffer"].shape) for entry in state["optimizer"]["state"].values()}
    assert not shapes & {(64, 3, 4, 4), (512, 256, 4, 4)}
    lines = metric_lines(tmp_path / "run")
    assert {"loss_task", "loss_skd", "loss_kd", "loss_adv", "loss_d"} <= lines[0].keys()


def test_discriminators_loss_leaves_the_student_alone_even_with_clipping(run_main, skd, tmp_path):
    words = [*skd, "--max-iterations", 1, "--skip-val", "--clip-grad", 0.01, "--no-dropout"]
    states = []
    for weight in (0.1, 1000.0):
        run_main("train_kd", *words, "--lambda-d", weight, "--save-dir-name", f"d_{weight}")
        states.append(state_of(tmp_path / f"d_{weight}"))
    assert_same(states[0]["network"], states[1]["network"])
    moments = [state["separate_optimizer"]["state"][1]["exp_avg"].norm().item() for state in states]
    assert moments[1] == pytest.approx(1e4 * moments[0], rel=1e-4)


def test_states_without_a_second_optimiser(run_main, skd, baseline, tmp_path):
    for module, words, name in (("train_baseline", baseline, "old"), ("train_kd", skd, "skd")):
        words = [*words, "--save-dir-name", name, "--max-iterations", 2, "--skip-val"]
        run_main(module, *words)
        state = state_of(tmp_path / name)
        del state["separate_optimizer"]  # as states were before there was one
        save_atomic(state, tmp_path / name / "last_state.pth")
        if name == "old":
            run_main(module, *words, "--resume", "auto")
            continue
        with pytest.raises(ValueError, match="expected one with a discriminator's optimiser, got one without"):
            run_main(module, *words, "--resume", "auto")


class Pair(nn.Module):
    """A student of one number and a discriminator of another, whose gradients are 3 and 5 or what is given."""

    keep_features = False

    def __init__(self, of_discriminator: float = 5.0) -> None:
        super().__init__()
        self.network, self.discriminator = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.of_discriminator = of_discriminator
        nn.init.ones_(self.network.weight)
        nn.init.ones_(self.discriminator.weight)

    def forward(self, images, target, step):
        student, discriminator = (m.weight.sum() for m in (self.network, self.discriminator))
        return {"loss_task": 3 * student, "loss_d": self.of_discriminator * discriminator}


def one_step(task: Pair, scaler: torch.amp.GradScaler, clip_grad: float = 0.0) -> tuple[float, float]:
    """The two numbers after a step with rate 0.1."""
    separate = list(task.discriminator.parameters())
    optimizer = build_optimizer(
        task, [], kind="sgd", lr=0.1, weight_decay=0.0, momentum=0.0, head_lr_mult=1.0, separate=separate
    )
    training = TrainState(task, optimizer, scaler, discriminator_optimizer=build_discriminator_optimizer(separate))
    config = make_config(clip_grad=clip_grad, accumulation_steps=2, batch_size=2)
    batch = Batch(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2), torch.tensor([[2, 2]]), torch.tensor([0]))
    device = torch.device("cpu")
    nonfinite = NonFiniteCheck(training, device, RankFlags(device, lambda: False).exchange)
    train_step(task, training, iter([batch, batch]), config, device, nonfinite, lambda: None)
    assert all(parameter.grad is None for parameter in task.parameters())
    return task.network.weight.item(), task.discriminator.weight.item()


@pytest.mark.parametrize("scaled", [False, True])
def test_step_with_and_without_scaled_gradients(scaled):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
    assert one_step(Pair(), scaler) == pytest.approx((1 - 0.3, 1 - 4e-4))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
    assert one_step(Pair(), scaler, clip_grad=1.0) == pytest.approx((1 - 0.1, 1 - 4e-4), rel=1e-5)


def test_overflow_in_the_discriminator_skips_the_whole_step_and_lowers_the_scale():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # the student waits too, as banks and averages do
    assert one_step(Pair(of_discriminator=float("inf")), scaler) == (1.0, 1.0)
    assert scaler.get_scale() == 512.0


def test_no_separate_parameters_need_no_optimiser():
    assert build_discriminator_optimizer([]) is None

"""What is not finite changes no weight and stops the run at its next look at the device."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import engine.setup.tasks
from engine.run.directory import RunDirectory
from engine.run.state import TrainState
from engine.training.nonfinite import NonFiniteCheck, step_masked
from engine.training.optim import AveragedWeights, build_optimizer
from engine.training.stopping import RankFlags
from losses.modules.memory_bank import MemoryBank
from tests.conftest import assert_same_runs, metric_lines
from tests.processes import run_mains, run_processes
from utils.checkpoint import load_file
from utils.distributed import get_rank


class _SpoiltGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("inf")


def spoil(monkeypatch, iteration: int, kind: str) -> None:
    """Makes the task loss, or its gradient, of one iteration not finite, and batch norms' statistics with it."""
    forward = engine.setup.tasks.SegmentationTask.forward

    def broken(self, images, target, step):
        bad = step.iteration + 1 == iteration
        terms = forward(self, images * float("nan") if bad and kind == "images" else images, target, step)
        if bad and kind == "gradient":
            terms["loss_task"] = _SpoiltGradient.apply(terms["loss_task"])
        elif bad and kind == "loss":
            terms["loss_task"] = terms["loss_task"] + float("nan")  # with a gradient that is finite
        return terms

    monkeypatch.setattr(engine.setup.tasks.SegmentationTask, "forward", broken)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("loss", "loss_task is not finite at iteration 3"),
        ("gradient", r"the gradient of network\.\S+ is not finite at iteration 3"),
        ("images", "loss_task is not finite at iteration 3"),
    ],
)
def test_bad_step_ends_the_run_at_the_next_look_and_the_last_state_resumes(
    run_main, baseline, data_root, tmp_path, monkeypatch, kind, message
):
    words = [*baseline, "--ema-decay", 0.9, "--skip-val", "--log-iter", 2, "--save-per-iters", 2, "--clip-grad", 5]
    with monkeypatch.context() as patch:
        spoil(patch, 3, kind)
        with pytest.raises(
            FloatingPointError, match=message + r"\. The last state before it, of iteration 2, is"
        ) as error:
            run_main("train_baseline", *words)
    assert load_file(tmp_path / "run/last_state.pth")["iteration"] == 2
    assert [line["iteration"] for line in metric_lines(tmp_path / "run")] == [2]
    rows = [line.split("\t") for line in (tmp_path / "run/bad_batches.txt").read_text().splitlines()]
    assert rows[0] == ["iteration", "process", "image"] and [row[0] for row in rows[1:]] == ["3", "3", "4", "4"]
    assert all(row[2].startswith(str(data_root)) for row in rows[1:]) and "bad_batches.txt" in str(error.value)

    run_main("train_baseline", *words, "--resume", "auto")  # what was wrong has passed
    run_main("train_baseline", *words, "--save-dir-name", "good")
    assert_same_runs(tmp_path / "run", tmp_path / "good")


def test_a_run_without_a_state_reports_so(run_main, baseline, monkeypatch):
    spoil(monkeypatch, 1, "loss")
    with pytest.raises(FloatingPointError, match=r"at iteration 1\. No state was saved before it"):
        run_main("train_baseline", *baseline, "--skip-val", "--save-per-iters", 4)


class Tiny(nn.Module):
    """A network with a batch norm, a bank that sees each batch, and a loss that is as asked for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.bank = MemoryBank(2, 5, 4)

    def forward(self, rows, factor=1.0):
        out = self.network(rows)
        self.bank.enqueue(out.detach(), torch.arange(len(rows)) % 2, torch.ones(len(rows), dtype=torch.bool))
        return {"loss_task": out.square().mean() * factor}

    def trained_state(self):
        return {"network": self.state_dict()}


def make_training(kind: str = "sgd", scaler: torch.amp.GradScaler | None = None) -> tuple[TrainState, NonFiniteCheck]:
    task, device = Tiny(), torch.device("cpu")
    optimizer = build_optimizer(task, [], kind=kind, lr=0.1, weight_decay=0.01, momentum=0.9)
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    training = TrainState(task, optimizer, scaler, AveragedWeights(task.network, 0.9))
    return training, NonFiniteCheck(training, device, RankFlags(device, lambda: False).exchange)


def train_tiny(kind: str, bad: dict[int, float], steps: int = 5) -> tuple[TrainState, NonFiniteCheck]:
    """Some steps; in those named in `bad` the loss has another factor."""
    training, nonfinite = make_training(kind)
    task = training.task
    torch.manual_seed(1)
    for _ in range(steps):
        rows = torch.randn(6, 3, generator=torch.Generator().manual_seed(training.iteration))
        nonfinite.note_samples([torch.tensor([training.iteration])])
        terms = task(rows, bad.get(training.iteration + 1, 1.0))
        sum(terms.values()).backward()
        nonfinite.update([{name: loss.detach() for name, loss in terms.items()}])
        step_masked(training.optimizer, nonfinite.masked)
        training.ema.update_parameters(task.network, nonfinite.masked)
        training.optimizer.zero_grad()
        training.iteration += 1
    return training, nonfinite


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("factor", [float("nan"), 1e38])
def test_from_the_bad_step_on_no_weight_moves(kind, at, factor):
    training, nonfinite = train_tiny(kind, {at: factor})
    assert nonfinite.first_bad().endswith(f"is not finite at iteration {at}")
    expected, good = train_tiny(kind, {}, steps=at - 1)
    assert good.first_bad() is None
    for left, right in zip(training.task.parameters(), expected.task.parameters(), strict=True):
        assert torch.equal(left, right)
    means = training.meter.read()
    assert means == expected.meter.read() or at == 1  # the bad steps are not in them
    averages = zip(training.ema.module.parameters(), expected.ema.module.parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in averages)
    for left, right in zip(*(t.optimizer.state.values() for t in (training, expected)), strict=at > 1):
        assert all(torch.equal(left[name], right[name]) for name in right)


def scaled_step(training: TrainState, nonfinite: NonFiniteCheck, rows: Tensor, factor: float = 1.0) -> None:
    terms = training.task(rows, factor)
    training.scaler.scale(sum(terms.values())).backward()
    nonfinite.update([{name: loss.detach() for name, loss in terms.items()}])
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad()
    training.iteration += 1


def test_scaler_continues_after_a_bad_step():
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=99)
    training, nonfinite = make_training(scaler=scaler)
    weights = []
    for factor in (1.0, float("inf"), 1.0):
        scaled_step(training, nonfinite, torch.ones(6, 3) + torch.arange(6)[:, None], factor)
        weights.append(training.task.network[0].weight.detach().clone())
        assert nonfinite.first_bad() is None
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    assert scaler.get_scale() == 2.0 and training.meter.read()["loss_task"] < 1e9
    scaler.update(2.0**-11)
    assert nonfinite.first_bad() == "fp16 finds no scale for finite gradients"


def test_scaler_skips_a_step_whose_loss_alone_is_not_finite():
    training, nonfinite = make_training(scaler=torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=99))
    before = [parameter.detach().clone() for parameter in training.task.parameters()]
    training.scaler.scale(sum(training.task(torch.randn(6, 3)).values())).backward()
    nonfinite.update([{"loss_task": torch.tensor(float("nan"))}])
    training.scaler.step(training.optimizer)
    assert all(map(torch.equal, training.task.parameters(), before))


@pytest.mark.parametrize("masked", [None, torch.tensor(False)])
def test_average_is_torchs(masked):
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ours = AveragedWeights(network, 0.9)
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        network(torch.randn(4, 3)).sum().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update_parameters(network, masked)
        theirs.update_parameters(network)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for left, right in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(left, right)


def bad_on_rank_1() -> list:
    training, nonfinite = make_training()
    nonfinite.note_samples([torch.tensor([10 + get_rank()])])
    sum(training.task(torch.randn(6, 3)).values()).backward()
    nonfinite.update([{"loss_task": torch.tensor(float("nan") if get_rank() else 1.0)}])
    return [bool(nonfinite.masked), nonfinite.first_bad()]


def test_all_processes_skip_a_step_that_is_bad_in_one():
    assert run_processes(bad_on_rank_1, 2) == [[True, "loss_task is not finite at iteration 1"]] * 2


def test_two_processes_end_together_with_the_images_of_both(baseline, tmp_path):
    words = [*baseline, "--batch-size", 4, "--lr", 1e30, "--skip-val"]
    with pytest.raises(Exception, match="FloatingPointError: .* is not finite at iteration"):
        run_processes(run_mains, 2, ("train_baseline", words))
    rows = [line.split("\t") for line in (tmp_path / "run/bad_batches.txt").read_text().splitlines()[1:]]
    assert {row[1] for row in rows} == {"0", "1"} and len(rows) % 4 == 0


def test_a_masked_step_leaves_the_average_alone_even_where_statistics_are_not_finite():
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = AveragedWeights(network, 0.9)
    average.update_parameters(network)
    before = {name: value.clone() for name, value in average.state_dict().items() if name != "n_averaged"}
    network[1].running_var.fill_(float("inf"))
    average.update_parameters(network, torch.tensor(True))
    assert all(torch.equal(average.state_dict()[name], value) for name, value in before.items())


def test_statistics_that_are_not_finite_are_not_saved(tmp_path):
    training, nonfinite = train_tiny("sgd", {})
    training.task.network[1].running_mean.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="statistics are not finite .* To try again, start the run anew"):
        nonfinite.raise_if_set(RunDirectory(tmp_path, "x"), None, None, look_at_weights=True)

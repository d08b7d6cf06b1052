"""What is not finite stops a run, which keeps the state before it: same bits as a run that ended there."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import engine.task
import losses.cirkdv2
from engine.ending import stop_if_not_finite
from engine.finite import Averaged, FiniteGuard, MaskedAverage, step_masked
from engine.optim import build_optimizer
from engine.run import Run
from engine.state import Training
from engine.stopping import StepAgreement
from losses.memory_bank import ClasswiseBank
from tests.conftest import assert_same, metric_lines
from tests.engine.test_processes import launch
from tests.processes import run_processes
from utils.checkpoint import load_file
from utils.distributed import get_rank
from utils.signals import Interrupted


class _SpoiltGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("inf")


def spoil(monkeypatch, iteration: int, kind: str) -> None:
    """Makes the task loss, or its gradient, of one iteration not finite, and batch norms' statistics with it."""
    forward = engine.task.SegmentationTask.forward

    def broken(self, images, target, step):
        bad = step.iteration + 1 == iteration
        terms = forward(self, images * float("nan") if bad and kind == "images" else images, target, step)
        if bad and kind == "gradient":
            terms["loss_task"] = _SpoiltGradient.apply(terms["loss_task"])
        elif bad and kind == "loss":
            terms["loss_task"] = terms["loss_task"] + float("nan")  # with a gradient that is finite
        return terms

    monkeypatch.setattr(engine.task.SegmentationTask, "forward", broken)


def without(state: dict, *names: str) -> dict:
    for name in names:
        state["arguments"].pop(name)
    return state


@pytest.mark.parametrize(
    "kind, said",
    [
        ("loss", "loss_task is not finite at iteration 3"),
        ("gradient", r"the gradient of network\.\S+ is not finite at iteration 3"),
        ("images", "loss_task is not finite at iteration 3"),
    ],
)
def test_bad_step_leaves_the_state_before_it(run_main, baseline, data_root, tmp_path, monkeypatch, kind, said):
    words = [*baseline, "--ema-decay", 0.9, "--skip-val", "--log-iter", 2, "--save-per-iters", 100, "--clip-grad", 5]
    with monkeypatch.context() as patch:
        spoil(patch, 3, kind)
        with pytest.raises(FloatingPointError, match=said + ".*of iteration 2, is saved") as error:
            run_main("train_baseline", *words)
    kept = load_file(tmp_path / "run/last_state.pth")
    assert kept["iteration"] == 2
    assert [line["iteration"] for line in metric_lines(tmp_path / "run")] == [2]
    rows = [line.split("\t") for line in (tmp_path / "run/bad_batches.txt").read_text().splitlines()]
    assert rows[0] == ["iteration", "process", "image"] and [row[0] for row in rows[1:]] == ["3", "3"]
    assert all(row[2].startswith(str(data_root)) for row in rows[1:]) and "bad_batches.txt" in str(error.value)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):  # stops after step 2 by a signal
        patch.setattr(StepAgreement, "exchange", stops_at(2))
        run_main("train_baseline", *words, "--save-dir-name", "good")
    good = load_file(tmp_path / "good/last_state.pth")
    assert_same(without(kept, "save_dir_name"), without(good, "save_dir_name"))


def stops_at(count: int):
    calls = []

    def exchange(self, bad):
        calls.append(bad)
        self.stop = len(calls) == count
        return bad

    return exchange


def test_bad_step_takes_rows_of_the_banks_back(run_main, distillation, tmp_path, monkeypatch):
    words = [*distillation, "--save-per-iters", 100, "--skip-val", "--accumulation-steps", 1]
    weight = losses.cirkdv2.CIRKDV2._weight

    def broken(self, term, step):
        return float("inf") if term == "kd" and step.iteration == 2 else weight(self, term, step)

    with (
        monkeypatch.context() as patch,
        pytest.raises(FloatingPointError, match="loss_kd is not finite at iteration 3"),
    ):
        patch.setattr(losses.cirkdv2.CIRKDV2, "_weight", broken)
        run_main("train_cirkdv2", *words)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(StepAgreement, "exchange", stops_at(2))
        run_main("train_cirkdv2", *words, "--save-dir-name", "good")
    kept, good = (load_file(tmp_path / name / "last_state.pth") for name in ("run", "good"))
    assert any("queue_count" in name and value.sum() > 0 for name, value in kept["distiller"].items())
    assert_same(without(kept, "save_dir_name"), without(good, "save_dir_name"))


class Tiny(nn.Module):
    """A network with a batch norm, a bank that sees each batch, and a loss that is as asked for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.bank = ClasswiseBank(2, 5, 4)

    def forward(self, rows, factor=1.0):
        out = self.network(rows)
        self.bank.enqueue(out.detach(), torch.arange(len(rows)) % 2, torch.ones(len(rows), dtype=torch.bool))
        return {"loss_task": out.square().mean() * factor}

    def trained_state(self):
        return {"network": self.state_dict()}


ARGUMENTS = {"lr": 0.1, "max_iterations": 9, "warmup_iters": 0}


def train_tiny(kind: str, masked: bool, bad: dict[int, float], steps: int = 5) -> tuple[Training, FiniteGuard]:
    """Some steps; in those named in `bad` the loss has another factor. `masked` is how a GPU does it."""
    task, device = Tiny(), torch.device("cpu")
    optimizer = build_optimizer(task, [], kind=kind, lr=0.1, weight_decay=0.01, momentum=0.9)
    ema = AveragedModel(task.network, multi_avg_fn=MaskedAverage(0.9), use_buffers=True)
    training = Training(task, optimizer, torch.amp.GradScaler("cpu", enabled=False), ema)
    guard = FiniteGuard(training, device, StepAgreement(device, lambda: False), on_host=not masked)
    torch.manual_seed(1)
    for _ in range(steps):
        rows = torch.randn(6, 3, generator=torch.Generator().manual_seed(training.iteration))
        guard.begin([torch.tensor([training.iteration])])
        terms = task(rows, bad.get(training.iteration + 1, 1.0))
        sum(terms.values()).backward()
        guard.judge([{name: loss.detach() for name, loss in terms.items()}])
        if masked:
            step_masked(optimizer, guard.masked)
            ema.multi_avg_fn.masked = guard.masked
            ema.update_parameters(task.network)
        elif not guard.skip:
            optimizer.step()
            ema.update_parameters(task.network)
        optimizer.zero_grad()
        training.iteration += 1
        if guard.on_host and (finding := guard.finding()):
            guard.rewind(finding[0])
            break
    return training, guard


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("factor", [float("nan"), 1e38])
def test_masked_steps_change_nothing_without_the_host(kind, at, factor):
    """As on a GPU: from the bad step on all steps run, and none does anything."""
    training, guard = train_tiny(kind, True, {at: factor})
    iteration, text = guard.finding()
    assert iteration == at and text.endswith(f"is not finite at iteration {at}")
    guard.rewind(iteration)
    expected, _ = train_tiny(kind, True, {}, steps=at - 1)
    states = [t.state(ARGUMENTS, torch.device("cpu")) for t in (training, expected)]
    if at == 1:
        for state in states:
            state["meters"][0].pop("names")  # known since the first step, whatever became of it
    if at == 1 and kind == "adamw":  # its state is made, of zeros, by the step that is left out
        for state in states[0]["optimizer"].pop("state").values():
            assert not any(value.any() for value in state.values())
        states[1]["optimizer"].pop("state")
    assert_same(*states)


def test_host_and_masked_steps_are_the_same_training():
    training = [train_tiny("sgd", masked, {})[0] for masked in (False, True)]
    left, right = (t.state(ARGUMENTS, torch.device("cpu")) for t in training)
    averages = left.pop("ema"), right.pop("ema")
    assert_same(left, right)
    for name in averages[0]:  # an average is computed in another order where it can be masked
        torch.testing.assert_close(averages[0][name], averages[1][name])


def test_scaler_goes_on_after_a_bad_step_and_buffers_with_it():
    task, device = Tiny(), torch.device("cpu")
    optimizer = build_optimizer(task, [], kind="sgd", lr=0.1, weight_decay=0.0, momentum=0.9)
    training = Training(task, optimizer, torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=99))
    guard = FiniteGuard(training, device, StepAgreement(device, lambda: False))
    means = []
    for factor in (1.0, float("inf"), 1.0):
        guard.begin()
        terms = task(torch.ones(6, 3) + torch.arange(6)[:, None], factor)
        training.scaler.scale(sum(terms.values())).backward()
        guard.judge([{name: loss.detach() for name, loss in terms.items()}])
        training.scaler.step(optimizer)
        training.scaler.update()
        optimizer.zero_grad()
        training.iteration += 1
        means.append(task.network[1].running_mean.clone())
        assert guard.finding() is None
    assert torch.equal(means[0], means[1]) and not torch.equal(means[1], means[2])
    assert training.scaler.get_scale() == 2.0 and training.meter.read()["loss_task"] < 1e9
    training.scaler.update(2.0**-11)
    assert "fp16 finds no scale" in guard.finding()[1]


def test_scaler_skips_a_step_whose_loss_alone_is_not_finite():
    task, device = Tiny(), torch.device("cpu")
    optimizer = build_optimizer(task, [], kind="sgd", lr=0.1, weight_decay=0.0, momentum=0.9)
    training = Training(task, optimizer, torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=99))
    guard = FiniteGuard(training, device, StepAgreement(device, lambda: False))
    before = [parameter.detach().clone() for parameter in task.parameters()]
    guard.begin()
    terms = task(torch.randn(6, 3))
    training.scaler.scale(sum(terms.values())).backward()
    guard.judge([{"loss_task": torch.tensor(float("nan"))}])
    training.scaler.step(optimizer)
    assert all(map(torch.equal, task.parameters(), before))


def test_average_is_torchs():
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ours = Averaged(network, multi_avg_fn=MaskedAverage(0.9), use_buffers=True)
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        network(torch.randn(4, 3)).sum().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update_parameters(network)
        theirs.update_parameters(network)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))


def bad_on_rank_1() -> list:
    device = torch.device("cpu")
    task = Tiny()
    training = Training(task, build_optimizer(task, [], kind="sgd", lr=0.1, weight_decay=0.0, momentum=0.9), None)
    training.scaler = torch.amp.GradScaler("cpu", enabled=False)
    guard = FiniteGuard(training, device, StepAgreement(device, lambda: False))
    guard.begin([torch.tensor([10 + get_rank()])])
    terms = task(torch.randn(6, 3))
    sum(terms.values()).backward()
    guard.judge([{"loss_task": torch.tensor(float("nan") if get_rank() else 1.0)}])
    return [guard.skip, *guard.finding(), int(task.bank.queue_count.sum()), float(task.network[1].running_mean.sum())]


def test_all_processes_leave_out_a_step_that_is_bad_in_one():
    assert run_processes(bad_on_rank_1, 2) == [[True, 1, "loss_task is not finite at iteration 1", 0, 0.0]] * 2


@pytest.mark.slow
def test_two_processes_end_together_with_the_images_of_both(baseline, tmp_path):
    done = launch(2, "train_baseline.py", *baseline, "--batch-size", 4, "--lr", 1e30, "--skip-val")
    assert done.returncode != 0 and "is not finite at iteration" in done.stderr, done.stderr
    rows = [line.split("\t") for line in (tmp_path / "run/bad_batches.txt").read_text().splitlines()[1:]]
    assert {row[1] for row in rows} == {"0", "1"} and len(rows) % 4 == 0


def test_parameters_that_are_not_finite_are_not_saved_as_the_good_state(tmp_path):
    training, guard = train_tiny("sgd", False, {})
    with torch.no_grad():
        next(training.task.parameters()).fill_(float("inf"))

    class Saver:
        def save(self, **unused):
            raise AssertionError("saved")

    with pytest.raises(FloatingPointError, match="the parameters are not finite after iteration 5. No state is saved"):
        stop_if_not_finite(training, guard, Saver(), Run(tmp_path, "x"), None, parameters_too=True)
    assert (tmp_path / "bad_batches.txt").read_text().splitlines()[1] == "1\t0\tposition 0"

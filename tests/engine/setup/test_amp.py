"""--amp auto measures, logs its choice and keeps it on resume; bf16 on a CPU without it warns."""

from pathlib import Path

import pytest
import torch

from engine.run.directory import RunDirectory
from engine.setup import networks
from losses.relation.precision import MatmulPrecision
from models import build_model
from tests.configs import make_config
from tests.conftest import assert_same
from utils import amp as amp_module
from utils.amp import settle_inference_amp, slow_bf16_warning
from utils.checkpoint import load_file

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def cpuinfo(tmp_path, flags: str):
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: fpu avx2 {flags}\n\nprocessor\t: 1\nflags\t\t: fpu avx2 {flags}\n")
    return path


@pytest.fixture
def measured(monkeypatch):
    """Makes measurements: `measured(off, bf16)` in seconds; the list of what was asked for comes back."""
    calls = []

    def measure(off: float, bf16: float) -> list:
        seconds = {"off": off, "bf16": bf16}
        monkeypatch.setattr(networks, "measure_amp", lambda *args: calls.append(args) or seconds)
        return calls

    return measure


def test_measuring_changes_nothing_and_runs_both():
    network = build_model("psp_mobile", "mobilenetv3_small", 3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    dtypes, generator = [], torch.get_rng_state()
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, output: dtypes.append(output.dtype) if isinstance(module, torch.nn.Conv2d) else None
    )
    with hook:
        seconds = networks.measure_amp(network, CPU, (2, 3, 40, 56), channels_last=True)
    assert list(seconds) == ["off", "bf16"] and all(0 < value < float("inf") for value in seconds.values())
    assert dtypes.count(torch.float32) == dtypes.count(torch.bfloat16) > 0
    assert torch.equal(torch.get_rng_state(), generator) and network.training
    assert_same(dict(network.state_dict()), before)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(("off", "bf16", "taken"), [(2.0, 0.5, "bf16"), (0.5, 1.25, "off")])
def test_the_faster_one_is_chosen_logged_and_kept(run_main, baseline, tmp_path, measured, off, bf16, taken):
    calls = measured(off, bf16)
    run_main("train_baseline", *baseline, "--amp", "auto", "--max-iterations", 2)
    assert len(calls) == 1 and calls[0][2] == (2, 3, 40, 56)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert (
        f"--amp auto: {taken}; forward and backward pass of 2 images take {off:.3g} s in float32, {bf16} s in bf16"
        in log
    )
    state = load_file(tmp_path / "run" / "last_state.pth")
    assert state["arguments"]["amp"] == taken
    measured(bf16, off)  # now the other one would be faster
    run_main("train_baseline", *baseline, "--amp", "auto", "--max-iterations", 2, "--resume", "auto")
    assert len(calls) == 1
    assert f"--amp auto: {taken}, as the run was started with" in (tmp_path / "run" / "log.txt").read_text()
    with pytest.raises(ValueError, match=f"--amp was {taken} and is now fp16"):
        run_main("train_baseline", *baseline, "--amp", "fp16", "--max-iterations", 2, "--resume", "auto")


def test_distillation_follows_the_choice(run_main, distillation, tmp_path, measured, monkeypatch):
    """Relations too: their default precision is that of the choice."""
    asked = []
    choose = MatmulPrecision.choose
    monkeypatch.setattr(
        MatmulPrecision, "choose", lambda tensor, operand: asked.append(operand) or choose(tensor, operand)
    )
    measured(2.0, 0.5)
    run_main("train_cirkdv2", *distillation, "--amp", "auto", "--max-iterations", 2)
    assert set(asked) == {torch.bfloat16}
    assert load_file(tmp_path / "run" / "last_state.pth")["arguments"]["amp"] == "bf16"


def test_what_was_chosen_on_a_gpu_is_refused_at_once_on_a_cpu():
    run = RunDirectory(Path("x"), "x", {"arguments": {"amp": "fp16"}})
    with pytest.raises(ValueError, match="--amp fp16: expected a GPU"):
        networks.settle_amp(make_config(amp="auto"), None, run, CPU, print)


def test_a_measured_choice_does_not_warn(measured, monkeypatch, tmp_path):
    measured(2.0, 0.5)
    monkeypatch.setattr(amp_module.slow_bf16_warning, "__defaults__", (cpuinfo(tmp_path, "avx2"),))
    notes, flags = [], {"batch_size": 2, "accumulation_steps": 1, "crop_size": (8, 8)}
    config = networks.settle_amp(
        make_config(amp="auto", **flags), None, RunDirectory(Path("x"), "x"), CPU, notes.append
    )
    assert config.machine.amp == "bf16"
    assert len(notes) == 1 and "WARNING" not in notes[0]


def test_on_a_gpu_nothing_is_measured(monkeypatch, measured):
    calls, notes = measured(1.0, 2.0), []
    for supported, expected in ((True, "bf16"), (False, "off")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)  # noqa: B023
        config = networks.settle_amp(make_config(amp="auto"), None, RunDirectory(Path("x"), "x"), GPU, notes.append)
        assert config.machine.amp == expected == settle_inference_amp("auto", GPU)
    assert not calls and "has bfloat16" in notes[0] and "has no bfloat16" in notes[1]


@pytest.mark.parametrize("flags", ["avx512_bf16 avx512f", "amx_bf16", "bf16"])
def test_no_warning_where_the_cpu_has_bfloat16(tmp_path, flags):
    assert slow_bf16_warning(CPU, "bf16", cpuinfo(tmp_path, flags)) is None


def test_a_slow_choice_warns_once_at_the_start(run_main, baseline, tmp_path, monkeypatch, capsys):
    path = cpuinfo(tmp_path, "avx512f")
    for device, amp, file in ((CPU, "off", path), (GPU, "bf16", path), (CPU, "bf16", tmp_path / "none")):
        assert slow_bf16_warning(device, amp, file) is None
    monkeypatch.setattr(amp_module.slow_bf16_warning, "__defaults__", (path,))
    run_main("train_baseline", *baseline, "--amp", "bf16", "--max-iterations", 1, "--skip-val")
    lines = [line for line in (tmp_path / "run" / "log.txt").read_text().splitlines() if "--amp bf16:" in line]
    assert len(lines) == 1 and "WARNING: --amp bf16: this CPU has no bfloat16 instructions" in lines[0]
    capsys.readouterr()
    assert settle_inference_amp("bf16", CPU) == "bf16"
    assert capsys.readouterr().err.count("this CPU has no bfloat16") == 1
    assert settle_inference_amp("auto", CPU) == "off" and not capsys.readouterr().err

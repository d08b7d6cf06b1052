"""The health of loss terms, by hand."""

import pytest
import torch
from torch import nn

from engine.training.health import LossHealth, bank_filling
from losses.gradients import measure
from losses.modules.memory_bank import MemoryBank
from tests.conftest import assert_same, metric_lines
from utils.checkpoint import load_file


def test_gradients_on_the_features_by_hand():
    features = torch.tensor([[3.0, 4.0]], requires_grad=True)
    aux = torch.ones(2, requires_grad=True)
    losses = {
        "loss_task": (features * torch.tensor([1.0, 0.0])).sum(),
        "loss_kd": (features * torch.tensor([3.0, 4.0])).sum(),
        "loss_back": (features * torch.tensor([-2.0, 0.0])).sum(),
        "loss_none": (features * 0).sum(),
        "loss_aux": aux.sum(),
        "loss_constant": torch.tensor(2.0),
    }
    health = measure(losses, features, scale=1024.0)
    assert health["loss_kd"] == pytest.approx({"gradient": 5.0, "cosine": 0.6, "ratio": 5.0})
    assert health["loss_back"] == pytest.approx({"gradient": 2.0, "cosine": -1.0, "ratio": 2.0})
    assert health["loss_none"] == {"gradient": 0.0, "cosine": 0.0, "ratio": 0.0}
    assert health.keys() == {"loss_task", "loss_kd", "loss_back", "loss_none"}
    sum(losses.values()).backward()  # the graph is still there
    assert features.grad.tolist() == [[2.0, 4.0]]


def test_warnings_come_once_and_again_after_they_were_over():
    watch = LossHealth()

    def warnings(**ratios):
        return watch.warnings({f"loss_{name}": {"ratio": ratio} for name, ratio in ratios.items()})

    assert warnings(task=1.0, kd=0.5, at=1e-6, cwd=11.0) != []
    first = warnings(task=1.0, kd=0.0, at=1e-7, cwd=12.0)
    assert len(first) == 1 and first[0].startswith("kd vanishes")
    assert warnings(task=1.0, kd=1.0, at=1e-7, cwd=1.0) == []
    again = warnings(task=1.0, kd=1.0, at=20.0, cwd=30.0)
    assert [text.split(":")[0] for text in again] == ["at dominates the task", "cwd dominates the task"]
    assert warnings(task=100.0, kd=1.0) == []  # the task is not compared with itself


def test_filling_of_banks():
    module = nn.ModuleDict({"pixel": MemoryBank(2, 4, 3)})
    assert bank_filling(module) == {"pixel": 0.0}
    rows = torch.ones(3, 3)
    module["pixel"].enqueue(rows, torch.tensor([0, 0, 1]), torch.ones(3, dtype=torch.bool))
    assert bank_filling(module) == {"pixel": 3 / 8}


@pytest.mark.parametrize("flags", [[], ["--accumulation-steps", 2, "--batch-size", 4], ["--amp", "bf16"]])
def test_a_run_logs_the_health_of_its_terms_and_is_not_changed_by_it(run_main, distillation, tmp_path, flags):
    words = [*distillation, *flags, "--skip-val", "--max-iterations", 2]
    run_main("train_cirkdv2", *words, "--loss-health")
    first, second = metric_lines(tmp_path / "run")
    terms = {name for name in first if name.startswith("loss_")}
    assert len(terms) == 9 and first["health"].keys() == terms  # this student has no auxiliary head
    task = first["health"]["loss_task"]
    assert task["gradient"] > 0 and (task["cosine"], task["ratio"]) == pytest.approx((1.0, 1.0), rel=1e-5)
    assert all(row["gradient"] > 0 and -1 <= row["cosine"] <= 1.0001 for row in first["health"].values())
    assert (
        0 < first["banks"]["distiller.pixel_memory.pixel_bank"] < second["banks"]["distiller.pixel_memory.pixel_bank"]
    )
    assert "dominates the task" in (tmp_path / "run/log.txt").read_text()  # channels at weight 100 on a tiny crop
    run_main("train_cirkdv2", *words, "--save-dir-name", "plain")
    with_health, without = (load_file(tmp_path / name / "last_state.pth") for name in ("run", "plain"))
    assert_same(with_health["network"], without["network"])
    assert_same(with_health["distiller"], without["distiller"])


def test_compiled_networks_have_no_health(run_main, distillation):
    with pytest.raises(ValueError, match="--loss-health"):
        run_main("train_cirkdv2", *distillation, "--loss-health", "--compile")

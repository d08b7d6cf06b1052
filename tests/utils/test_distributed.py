import gc
import math
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.processes import free_port, run_processes
from utils import distributed as du
from utils.meters import LossMeter
from utils.metrics import ConfusionMatrix


@pytest.fixture
def launched(monkeypatch):
    """Sets the variables of a launcher to these alone."""

    def launch(**values):
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return launch


def test_everything_works_in_one_process(launched):
    launched()
    assert du.setup_distributed("cpu") == torch.device("cpu")
    assert not du.is_distributed() and du.get_rank() == 0 and du.get_world_size() == 1 and du.is_main_process()
    du.barrier()
    x = torch.ones(2, 3, requires_grad=True)
    du.all_gather_with_grad(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(2, 3))
    assert torch.equal(du.all_gather_cat(x), x) and not du.all_gather_cat(x).requires_grad
    total = du.all_reduce_sum(x)
    assert torch.equal(total, x) and total.data_ptr() != x.data_ptr()
    assert du.all_gather_object("a") == ["a"] and du.broadcast_object(3) == 3
    du.cleanup_distributed()
    assert du.global_mean_scale(torch.tensor(0)) == 0
    assert du.global_mean_scale(torch.tensor(4)) == 0.25


@pytest.mark.parametrize(
    ("environment", "flag", "words"),
    [
        ({}, "tpu", "auto, cpu or cuda"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "cpu", "MASTER_ADDR and MASTER_PORT"),
        ({"RANK": "zero", "WORLD_SIZE": "2"}, "cpu", "RANK"),
        ({"WORLD_SIZE": "2"}, "cpu", "RANK"),
    ],
)
def test_setup_names_what_is_wrong(launched, environment, flag, words):
    launched(**environment)
    with pytest.raises(ValueError, match=words):
        du.setup_distributed(flag)


def test_missing_gpus_are_refused(launched, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device cpu"):
        du.setup_distributed("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    launched(RANK=1, LOCAL_RANK=1, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=1)
    with pytest.raises(ValueError, match="1 are visible and 2 processes"):
        du.setup_distributed("auto")


def _cross_batch_loss(output: torch.Tensor, everything: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(output @ everything.T, dim=1).square().mean()


def _collectives(folder: str) -> dict:
    import torch._dynamo  # which imports torch.distributed.nn while there is a group

    rank = du.get_rank()
    found = {
        "world": (du.get_world_size(), du.is_main_process()),
        "sum": du.all_reduce_sum(torch.tensor([1.0, rank])),
        "objects": du.all_gather_object({"rank": rank}),
        "broadcast": du.broadcast_object(f"from {rank}"),
        "scale": du.global_mean_scale(torch.tensor(3 * rank)),
        "gathered": [
            du.all_gather_cat(torch.full((1, 2), rank).to(dtype))
            for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.bool)
        ],
        "strided": du.all_gather_cat(torch.arange(6).view(2, 3).T + 10 * rank),
    }
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(5, 4).double())
    x = torch.randn(6, 5, dtype=torch.float64)[rank * 3 : rank * 3 + 3]
    output = model(x)
    _cross_batch_loss(output, du.all_gather_with_grad(output)).backward()
    found["grad"] = model.module.weight.grad
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([rank, 1, 2]), torch.tensor([0, 1, 255]))
    confusion.reduce()
    found["confusion"] = confusion.compute().matrix.tolist()
    meter = LossMeter()
    meter.update({"a": torch.tensor(1.0 + rank), "b": torch.tensor(math.nan if rank else 2.0)}, 7)
    found["losses"] = meter.read(across_processes=True)
    found["first bad"] = meter.first_bad()
    du.barrier()
    with du.main_process_first():
        if du.is_main_process():
            time.sleep(0.3)
            Path(folder, "fetched").touch()
        found["fetched"] = Path(folder, "fetched").exists()
    del model, output
    gc.collect()
    du.cleanup_distributed()
    found["threads"] = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return found


def test_two_processes(tmp_path):
    results = run_processes(_collectives, 2, str(tmp_path))
    assert [result["world"] for result in results] == [(2, True), (2, False)]
    torch.manual_seed(0)
    model = nn.Linear(5, 4).double()
    output = model(torch.randn(6, 5, dtype=torch.float64))
    _cross_batch_loss(output, output).backward()
    for result in results:
        assert result["sum"].tolist() == [2.0, 1.0]
        assert result["objects"] == [{"rank": 0}, {"rank": 1}] and result["broadcast"] == "from 0"
        assert result["scale"] == pytest.approx(2 / 3)
        for gathered in result["gathered"]:
            assert gathered.float().tolist() == [[0, 0], [1, 1]]
        assert result["strided"].tolist() == [[0, 3], [1, 4], [2, 5], [10, 13], [11, 14], [12, 15]]
        torch.testing.assert_close(result["grad"], model.weight.grad, rtol=1e-12, atol=1e-12)
        assert result["confusion"] == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
        assert result["losses"] == {"a": 1.5, "b": pytest.approx(math.nan, nan_ok=True)}
        assert result["first bad"] == (7, "b")  # process 0 saw none itself
        assert result["fetched"]
        assert not [name for name in result["threads"] if "gloo" in name]  # none outlives the process group


def test_others_that_do_not_come_are_an_error(launched):
    launched(RANK=0, LOCAL_RANK=0, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    with pytest.raises(du.LostProcesses, match=r"2 processes of the run did not all meet .* within 0\.2 s"):
        du.setup_distributed("cpu", timeout=0.2)
    assert not du.is_distributed()


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="^mine$"), du.lost_processes_explained(lambda: ""):
        raise RuntimeError("mine")
    du.note_failure("without other processes it does nothing")

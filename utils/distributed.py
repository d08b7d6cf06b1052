"""Every collective of the project. Each function works unchanged in a single process without a process group.

Losses that need other processes' images follow two rules, so that the mean of gradients that DistributedDataParallel
takes equals the gradient of one process on the whole batch: maps are gathered with :func:`all_gather_with_grad`, and
a mean over a number of elements that depends on the data is a local sum times :func:`global_mean_scale`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

if dist.is_available():
    # Its functions keep, as default argument, the group that exists when it is imported, and torch imports it late and
    # by itself (with torch._dynamo). Imported while there is no group, nothing outlives destroy_process_group; else
    # gloo's threads live until the interpreter ends, where one of them at times aborts the process.
    import torch.distributed.nn


DEFAULT_TIMEOUT = 1800.0
_FAILURE_KEY = "cirkd/first_failure"
_timeout = [DEFAULT_TIMEOUT]  # of the process group, for messages


class LostProcesses(RuntimeError):
    """Other processes of the run ended, or do not answer; the message holds what is known of the reason."""


def is_distributed() -> bool:
    """Whether a process group is initialised (it may hold one process)."""
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """Rank of this process among all, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def get_world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def is_main_process() -> bool:
    """Whether this process writes logs and checkpoints."""
    return get_rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if get_world_size() > 1:
        dist.barrier(device_ids=[torch.cuda.current_device()] if dist.get_backend() == "nccl" else None)


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let the main process run the body before the others, which then find what it fetched."""
    if not is_main_process():
        barrier()
    yield
    if is_main_process():
        barrier()


def setup_distributed(device_flag: str = "auto", timeout: float = DEFAULT_TIMEOUT) -> torch.device:
    """Join the process group that torchrun announces, if any, and choose this process's device.

    Args:
        device_flag: "cpu", "cuda", or "auto" for CUDA where there is a device and the CPU elsewhere.
        timeout: seconds that a collective waits for the other processes before it fails.

    Returns:
        the device of this process; for CUDA it is the current device from now on.

    Raises:
        ValueError: unknown flag, CUDA asked for without a device, more local processes than GPUs, or a torchrun
            environment that is incomplete.
        LostProcesses: the others did not come.
    """
    if device_flag not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {device_flag!r}")
    if device_flag == "cuda" and not torch.cuda.is_available():
        raise ValueError("CUDA was asked for but torch sees no CUDA device: use --device cpu, or check the driver")
    use_cuda = device_flag != "cpu" and torch.cuda.is_available()
    world_size = _environment_int("WORLD_SIZE", 1)
    if "RANK" not in os.environ and world_size == 1:
        return _cuda_device(0) if use_cuda else torch.device("cpu")

    rank = _environment_int("RANK", None)
    local_rank = _environment_int("LOCAL_RANK", rank)
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(f"{' and '.join(missing)} not set beside RANK={rank}: start several processes with torchrun")
    if use_cuda and local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"local process {local_rank} has no GPU: {torch.cuda.device_count()} are visible and "
            f"{os.environ.get('LOCAL_WORLD_SIZE', 'more')} processes were started on this machine; "
            "lower --nproc-per-node or use --device cpu"
        )
    device = _cuda_device(local_rank) if use_cuda else torch.device("cpu")
    if is_distributed():  # joined already
        return device
    try:
        dist.init_process_group(
            "nccl" if use_cuda else "gloo",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout),
            device_id=device if use_cuda else None,
        )
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise LostProcesses(
            f"the {world_size} processes of the run did not all meet at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} within {timeout:g} s ({_first_line(error)}): one ended before, was not "
            "started or cannot reach that address. See the first error above and the other machines' output."
        ) from error
    _timeout[0] = timeout
    return device


def note_failure(text: str) -> None:
    """Leaves the reason why this process ends for the others, which read it when it is gone; the first is kept."""
    if get_world_size() > 1:
        with suppress(RuntimeError):  # the process that keeps the notes is gone too
            dist.distributed_c10d._get_default_store().compare_set(_FAILURE_KEY, "", f"process {get_rank()}: {text}")


@contextmanager
def lost_processes_explained(where: Callable[[], str]) -> Iterator[None]:
    """Turns the failure of a collective in the body into :class:`LostProcesses`.

    Args:
        where: called then; describes how far this process was, such as "after iteration 12".
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, LostProcesses) or not is_distributed() or not _is_lost_connection(error):
            raise
        raise LostProcesses(f"lost the other processes {where()}: {_why_lost(error)}") from error


def _is_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "third_party/gloo" in str(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _why_lost(error: RuntimeError) -> str:
    with suppress(RuntimeError):
        store = dist.distributed_c10d._get_default_store()
        if store.check([_FAILURE_KEY]):
            return store.get(_FAILURE_KEY).decode(errors="replace")
    text = _first_line(error)
    if "timed out" in text.lower() or "timeout" in text.lower():
        return f"no answer within {_timeout[0]:g} s (--dist-timeout): one hangs, or is that far behind ({text})"
    return f"one ended without a word, as when it is killed or the machine's memory is full ({text})"


def cleanup_distributed() -> None:
    """Leave the process group, if there is one."""
    if is_distributed():
        dist.destroy_process_group()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum of a tensor over all processes, as a new tensor without gradient."""
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    if get_world_size() > 1:
        dist.all_reduce(total)
    return total


def all_gather_cat(tensor: Tensor) -> Tensor:
    """Tensors of all processes, in the order of ranks, joined along dimension 0; no gradient.

    Args:
        tensor: (N, ...), of the same shape in every process.

    Returns:
        (world_size * N, ...); without other processes the tensor itself, detached.
    """
    tensor = tensor.detach()
    if get_world_size() == 1:
        return tensor
    tensor = tensor.contiguous()
    joined = tensor.new_empty((get_world_size() * tensor.shape[0], *tensor.shape[1:]))
    dist.all_gather_into_tensor(joined, tensor)
    return joined


def all_gather_with_grad(tensor: Tensor) -> Tensor:
    """:func:`all_gather_cat` whose gradient reaches every process's slice.

    Each process's loss may depend on every slice, so the gradient of a slice is the sum over processes. With the mean
    over processes that DistributedDataParallel takes, and losses that are means over each process's own part, this
    equals the gradient of the mean over the whole batch in one process.
    """
    return _GatherWithGrad.apply(tensor) if get_world_size() > 1 else tensor


def all_reduce_sum_with_grad(tensor: Tensor) -> Tensor:
    """:func:`all_reduce_sum` with a gradient, as that of :func:`all_gather_with_grad`.

    For losses that are computed of sums over the whole batch and are therefore equal in every process.
    """
    return all_gather_with_grad(tensor[None]).sum(0)


def all_gather_object(obj: Any) -> list[Any]:
    """Picklable objects of all processes, in the order of ranks."""
    objects = [obj] * get_world_size()
    if get_world_size() > 1:
        dist.all_gather_object(objects, obj)
    return objects


def broadcast_object(obj: Any) -> Any:
    """The picklable object that the main process passed."""
    holder = [obj]
    if get_world_size() > 1:
        dist.broadcast_object_list(holder)
    return holder[0]


def global_mean_scale(count: Tensor) -> Tensor:
    """Factor that turns this process's sum into its share of the mean over all processes.

    Args:
        count: number of elements (or sum of weights) in this process, any shape.

    Returns:
        float32, world_size / (sum of ``count`` over processes), 0 where that sum is 0. The mean over processes of
        ``local_sum * scale`` is the global mean.
    """
    total = all_reduce_sum(count).to(torch.float32)
    return torch.where(total > 0, get_world_size() / total.where(total > 0, total.new_ones(())), 0.0)


class _GatherWithGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        ctx.length = tensor.shape[0]
        return all_gather_cat(tensor)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        start = get_rank() * ctx.length
        return all_reduce_sum(grad)[start : start + ctx.length]


def _cuda_device(index: int) -> torch.device:
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _environment_int(name: str, default: int | None) -> int:
    value = os.environ.get(name)
    if value is None and default is not None:
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError(f"the environment variable {name} must be an integer, got {value!r}") from None

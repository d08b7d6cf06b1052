"""Mixed precision by name, and the choice of it."""

import sys
from pathlib import Path

import torch

from utils.distributed import is_main_process

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_AMP_OF = {"float32": "off", "bfloat16": "bf16"}
# The kernel's names for bfloat16 arithmetic of x86 and ARM processors; without it every operation converts.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
CPUINFO = Path("/proc/cpuinfo")


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """Autocast context for "off", "bf16" or "fp16"."""
    return torch.autocast(device.type, dtype=DTYPES.get(amp), enabled=amp != "off")


def teacher_amp(dtype: str | None, amp: str) -> str:
    """The teacher's mixed precision for `--teacher-dtype` and `--amp`: None is the student's."""
    return amp if dtype is None else _AMP_OF[dtype]


def grad_scaler(device: torch.device, amp: str) -> torch.amp.GradScaler:
    """Loss scaler; it scales only with "fp16", whose gradients would underflow.

    Raises:
        ValueError: for fp16 without a GPU.
    """
    if amp == "fp16" and device.type != "cuda":
        raise ValueError("--amp fp16: expected a GPU, got the CPU. Use --amp bf16 or off there.")
    return torch.amp.GradScaler(device.type, enabled=amp == "fp16")


def slow_bf16_warning(device: torch.device, amp: str, cpuinfo: Path = CPUINFO) -> str | None:
    """A warning of "bf16" on a CPU that has no instructions for it; None elsewhere, or where nothing is known."""
    if device.type != "cpu" or amp != "bf16":
        return None
    try:
        words = set(cpuinfo.read_text(encoding="utf-8", errors="replace").lower().split())
    except OSError:
        return None
    if words & BF16_FLAGS:
        return None
    return (
        "--amp bf16: this CPU has no bfloat16 instructions (avx512_bf16, amx_bf16), where it took 2 to 3.7 times as "
        "long as float32 for mobile and SegFormer students: leave --amp out; in training --amp auto measures both"
    )


def gpu_amp() -> str:
    """The precision that "auto" is on a GPU: bf16 where it has the arithmetic for it."""
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "off"


def settle_inference_amp(amp: str, device: torch.device) -> str:
    """Mixed precision of a program that does not train: "auto" is off on a CPU. Warns on stderr of a slow one.

    Raises:
        ValueError: the device cannot do it.
    """
    grad_scaler(device, amp)
    if amp == "auto":
        amp = gpu_amp() if device.type == "cuda" else "off"
    if is_main_process() and (warning := slow_bf16_warning(device, amp)):
        print(f"WARNING {warning}", file=sys.stderr)
    return amp

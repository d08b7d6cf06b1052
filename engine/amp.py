"""Mixed precision by name."""

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_AMP_OF = {"float32": "off", "bfloat16": "bf16"}
TEACHER_DTYPES = tuple(_AMP_OF)


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

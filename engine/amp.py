"""Mixed precision by name."""

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """Autocast context for "off", "bf16" or "fp16"."""
    return torch.autocast(device.type, dtype=DTYPES.get(amp), enabled=amp != "off")


def grad_scaler(device: torch.device, amp: str) -> torch.amp.GradScaler:
    """Loss scaler; it scales only with "fp16", whose gradients would underflow.

    Raises:
        ValueError: for fp16 without a GPU.
    """
    if amp == "fp16" and device.type != "cuda":
        raise ValueError("--amp fp16: expected a GPU, got the CPU. Use --amp bf16 or off there.")
    return torch.amp.GradScaler(device.type, enabled=amp == "fp16")

"""torch.compile for a run: tried before anything is written, and not used where images differ in size."""

from contextlib import AbstractContextManager

import torch


def check_compiler(device: torch.device) -> None:
    """Compiles a line of code for the device.

    Raises:
        ValueError: it fails, as where there is no C++ compiler (CPU) or no Triton (GPU).
    """
    try:
        torch.compile(lambda x: (x * 2).relu() + 1, fullgraph=True)(torch.ones(8, device=device))
    except Exception as error:  # whatever the back end raises, of which there are many kinds
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        needs = "a C++ compiler (g++, clang++ or what CXX names)" if device.type == "cpu" else "Triton and a C compiler"
        raise ValueError(
            f"--compile: torch cannot compile for the {device.type} here ({reason}). Expected {needs} on the path; "
            "install that, or leave --compile out."
        ) from error


def uncompiled() -> AbstractContextManager:
    """Inside, compiled modules run as they are written.

    For validation: images of many sizes would each be compiled for, again and again.
    """
    return torch.compiler.set_stance("force_eager")

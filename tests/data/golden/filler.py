"""Values for any parameter or buffer from its name and shape alone, so that two implementations can be compared.

The stored outputs beside this file were made with these values; numpy alone, no torch generator, so they are the same
everywhere.
"""

import hashlib
import math
import re

import numpy as np

# Gains that keep the activations of deep residual networks within a moderate range.
DAMPED = 0.4
RESIDUAL_BRANCH = re.compile(r"layer\d+\.\d+\.conv[23]\.weight$")
PROJECTION = "linear_conv.conv.weight"
PROJECTION_SHAPES = ((24, 64), (40, 120))


def fill(name: str, shape: tuple[int, ...], integer: bool = False) -> np.ndarray:
    """Return the values of the tensor `name`, float32 (int64 zeros for counters)."""
    leaf = name.split(".")[-1]
    if integer or leaf == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    digest = hashlib.sha256(name.encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    if leaf.endswith("_queue"):  # rows of a memory bank have length 1
        rows = generator.normal(size=shape)
        values = rows / np.sqrt((rows * rows).sum(axis=-1, keepdims=True))
    elif leaf in ("weight_u", "weight_v"):  # vectors of spectral normalisation have length 1
        vector = generator.normal(size=shape)
        values = vector / np.sqrt((vector * vector).sum())
    elif leaf == "running_mean":
        values = generator.normal(scale=0.1, size=shape)
    elif leaf.endswith("bias"):
        values = generator.normal(scale=0.02, size=shape)
    elif leaf == "running_var" or len(shape) < 2:
        values = generator.uniform(0.8, 1.2, size=shape)
    else:
        values = generator.normal(scale=math.sqrt(2.0 / math.prod(shape[1:])), size=shape)
        if RESIDUAL_BRANCH.search(name):
            values *= DAMPED
        elif name.endswith(PROJECTION) and (shape[0] == 80 or tuple(shape[:2]) in PROJECTION_SHAPES):
            values *= DAMPED
    return values.astype(np.float32)

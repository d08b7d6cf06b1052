import struct
import zlib

import pytest
import torch

from dataset.loading.loaders import build_train_loader
from dataset.prepared.build import build_cache
from tests.pseudo_datasets import write_source


@pytest.fixture
def source(tmp_path):
    return write_source("custom", tmp_path / "source")


def build_small(source, out, splits=("train", "val"), name="custom", **options):
    """Builds a decoded cache of small files, of about three samples each."""
    return build_cache(name, source, out, splits, **{"workers": 0, "part_bytes": 20_000} | options)


def batches(data, **options):
    settings = {"crop_size": (16, 20), "batch_size": 4, "max_iterations": 6, "seed": 5} | options
    return list(build_train_loader(data, **settings))


def joined(parts):
    """The processes' parts of a batch as one."""
    return type(parts[0])(*(torch.cat(field) for field in zip(*parts, strict=True)))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

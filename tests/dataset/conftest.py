import struct
import zlib

import pytest

from dataset.loading.loaders import build_train_loader
from dataset.prepared.build import build_cache
from tests.pseudo_datasets import write_source


@pytest.fixture
def source(tmp_path):
    """The folder of a small data set of the user's own."""
    return write_source("custom", tmp_path / "source")


def build_small(source, out, splits=("train", "val"), name="custom", **options):
    """Builds a decoded cache of small files, of about three samples each."""
    return build_cache(name, source, out, splits, **{"workers": 0, "part_bytes": 20_000} | options)


def batches(data, **options):
    """All batches of a small training stream."""
    settings = {"crop_size": (16, 20), "batch_size": 4, "max_iterations": 6, "seed": 5} | options
    return list(build_train_loader(data, **settings))


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

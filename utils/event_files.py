"""TensorBoard's event files, cut at an iteration.

A file is a sequence of records: length (uint64), its checksum (uint32), so many bytes of an `Event`, their checksum.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from utils.files import atomic_file

_HEADER, _FOOTER = 12, 4


def cut_events(folder: Path, keep: Callable[[int, str], bool]) -> None:
    """Drops events from all event files in a folder, and records that a killed process left unfinished.

    A file is replaced as a whole; one in which nothing is to be dropped is not touched.

    Args:
        folder: where TensorBoard's files are; need not exist.
        keep: (step, tag) -> whether a value stays. An event without values stays.

    Raises:
        OSError: a file could not be read or replaced.
    """
    paths = sorted(folder.glob("events.out.tfevents.*"))
    if not paths:
        return
    from tensorboard.compat.proto.event_pb2 import Event

    for path in paths:
        content = path.read_bytes()
        kept = [record for record in _records(content) if _stays(Event.FromString(record[_HEADER:-_FOOTER]), keep)]
        if sum(map(len, kept)) != len(content):
            with atomic_file(path) as file:
                for record in kept:
                    file.write(record)


def _records(content: bytes) -> Iterator[bytes]:
    """The whole records, up to the first that is not."""
    start = 0
    while start + _HEADER <= len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        end = start + _HEADER + length + _FOOTER
        if end > len(content):
            return
        yield content[start:end]
        start = end


def _stays(event: Any, keep: Callable[[int, str], bool]) -> bool:
    values = event.summary.value
    return not values or any(keep(event.step, value.tag) for value in values)

"""What a file of tensors may be: its container is checked before it is read, and code is refused by name."""

import errno
import hashlib
import json
import pickletools
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

CHECKSUM = "sha256"  # in the metadata of the .safetensors files that we write
COPY_AGAIN = "copy or download it again"
DIRECTORY_BIT = 0x10  # of a member's attributes: torch's reader gives such a member uninitialised memory
LEGACY_PICKLES = 5  # magic number, protocol, system, content, keys of storages
# What tensors and dicts of them are made of; the rest of what torch.load lets pass does not occur beside code.
HARMLESS = re.compile(r"torch\._utils\._rebuild\w*|torch\.\w*(Storage|Tensor|Size|device)|collections\.OrderedDict")


class CodeInFileError(ValueError):
    """A file that names functions or classes beside plain data: made so, whereas other bad files may be damaged."""


def check_container(path: Path) -> None:
    """Refuses a file that torch.save did not write, by its container; compares the checksums of a zip archive.

    torch.save writes an uncompressed zip archive, before torch 1.6 a row of pickles. torch.load compares no checksum.

    Raises:
        ValueError: the archive is cut short, changed or of another kind, or its members are no plain files of their
            declared size.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(512)
    if start[257:262] == b"ustar":
        raise ValueError(f"{path} is refused: a tar archive (of torch before 0.2, or a download that is still packed)")
    if not start.startswith(b"PK\x03\x04"):
        return
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            reason = _reason_to_refuse(archive.infolist(), size)
            damaged = None if reason else archive.testzip()
    except Exception as error:  # zipfile raises many kinds for a damaged table of contents
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: an offset before the file's start
            raise
        raise ValueError(f"{path} is damaged or cut short ({size:,} bytes; {error}): {COPY_AGAIN}") from error
    if reason:
        raise ValueError(f"{path} is refused: {reason}")
    if damaged is not None:
        raise ValueError(f"{path} is damaged (the checksum of {damaged} differs): {COPY_AGAIN}")


def _reason_to_refuse(members: list[zipfile.ZipInfo], size: int) -> str | None:
    """Names what torch.save never writes."""
    names = [member.filename for member in members]
    last_parts = {Path(name).name for name in names}
    if any(".." in Path(name).parts or name.startswith("/") or "\\" in name for name in names):
        return "the archive holds members outside its own folder"
    if len(set(names)) < len(names):
        return "the archive holds several members of one name"
    if "constants.pkl" in last_parts:
        return "a TorchScript program; expected a file of weights (a state dict)"
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        return "a compressed archive, which torch.save does not write"
    if any(member.flag_bits & 1 for member in members):
        return "an encrypted archive, which torch.save does not write"
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        if member.is_dir() or member.external_attr & DIRECTORY_BIT or kind not in (0, stat.S_IFREG):
            return f"its member {member.filename} is a link or a folder, which torch.save does not write; {COPY_AGAIN}"
    declared = sum(member.file_size for member in members)
    if declared > size or any(member.file_size != member.compress_size for member in members):
        return f"its members are declared to hold {declared:,} bytes, and the file has {size:,}; {COPY_AGAIN}"
    if "data.pkl" not in last_parts:
        return "a zip archive, but not one written by torch.save"
    return None


def refusal(path: Path, error: Exception) -> ValueError:
    """Why torch.load, with `weights_only`, refused a file; names what is in it, and executes nothing.

    Args:
        path: the file.
        error: what torch.load raised.
    """
    text = str(error)
    found = []
    with suppress(Exception):  # no pickle, or one that ends early: the names up to there are kept
        for name in _named_in_file(path):
            found.append(name)
    names = [name for name in dict.fromkeys(found) if not HARMLESS.fullmatch(name)]
    if names:
        return CodeInFileError(
            f"{path} is refused: it holds {', '.join(names[:3])}, and only plain data (tensors, numbers, "
            "strings, dicts, lists) is read, because anything else could run code; nothing was executed. If you trust "
            "its origin, save its state dict again with torch.save where it was made"
        )
    if "weights_only" in text:  # torch's advice to turn it off, which runs the code in a file; the cause is at its end
        cause = re.search(r"WeightsUnpickler error:\s*(.+)", text)
        text = cause[1] if cause else ""
    first_line = text.strip().splitlines()[0][:200] if text.strip() else type(error).__name__
    return ValueError(
        f"{path} cannot be read as a file of weights ({path.stat().st_size:,} bytes; {first_line}): it is damaged, cut "
        f"short or of another kind; {COPY_AGAIN}"
    )


def _named_in_file(path: Path) -> Iterator[str]:
    """Functions and classes that a file's pickles name, in their order, without loading any."""
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":
            with zipfile.ZipFile(file) as archive:
                member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                yield from _named_in_pickle(archive.open(member))
        else:
            file.seek(0)
            for _ in range(LEGACY_PICKLES):
                yield from _named_in_pickle(file)


def _named_in_pickle(file: BinaryIO) -> Iterator[str]:
    strings = [""] * 2  # in the order in which they were pushed
    memo: dict[int, str] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            yield argument.replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif opcode.name.startswith("EXT"):
            yield f"the extension {argument}"
        elif opcode.name == "MEMOIZE" or opcode.name.endswith("PUT"):
            memo[len(memo) if argument is None else argument] = strings[-1]
        elif opcode.name.endswith("GET"):
            strings.append(memo.get(argument, ""))
        elif isinstance(argument, str):
            strings.append(argument)


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads a `.safetensors` file, and compares its checksum where it has one, as those that we write.

    Raises:
        ValueError: it cannot be read, or its content differs from what was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}): {COPY_AGAIN}") from error
    if CHECKSUM in metadata and metadata[CHECKSUM] != checksum(tensors, metadata):
        raise ValueError(f"{path} is damaged (its checksum differs): {COPY_AGAIN}")
    return tensors


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 of names, types, shapes and values of tensors and of the texts beside them, as a hexadecimal number.

    Args:
        tensors: on the CPU.
        metadata: texts; one under `CHECKSUM` does not count.
    """
    digest = hashlib.sha256()
    texts = {name: text for name, text in metadata.items() if name != CHECKSUM}
    digest.update(json.dumps(texts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()

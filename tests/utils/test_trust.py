import json
import pickle
import stat
import struct
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from tests.test_bombs import Bomb
from utils.checkpoint import load_file
from utils.trust import CHECKSUM, CodeInFileError, checksum

BOMBS = {f"zip, protocol {p}": lambda c, f, p=p: torch.save(c, f, pickle_protocol=p) for p in (2, 3, 4, 5)}
BOMBS |= {
    f"legacy, protocol {p}": lambda c, f, p=p: torch.save(c, f, pickle_protocol=p, _use_new_zipfile_serialization=False)
    for p in (2, 4, 5)
}
BOMBS |= {f"pickle, protocol {p}": lambda c, f, p=p: f.write_bytes(pickle.dumps(c, protocol=p)) for p in range(6)}


@pytest.mark.parametrize("kind", BOMBS)
def test_code_is_refused_by_name_and_not_run(kind, tmp_path, recwarn):
    path = tmp_path / "bomb.pth"
    BOMBS[kind]({"w": torch.ones(2) if "pickle" not in kind else 1, "x": Bomb(tmp_path / "made")}, path)
    with pytest.raises(
        CodeInFileError, match=r"bomb\.pth is refused: it holds posix\.mkdir, and .*nothing was executed"
    ):
        load_file(path)
    assert not (tmp_path / "made").exists()
    assert "\n" not in str(pytest.raises(CodeInFileError, load_file, path).value)
    assert not recwarn.list
    if "pickle" not in kind:
        torch.load(path, weights_only=False)  # the bomb is a real one
        assert (tmp_path / "made").exists()


def test_name_from_the_memo_is_reported(tmp_path):
    """Protocol 4 can fetch both halves of a name from the memo."""
    words = pickle.dumps([("posix", "mkdir"), "posix", "mkdir"], protocol=4)[:-1]
    path = tmp_path / "a.pth"
    path.write_bytes(words + b"0" + b"\x8c\x05posix\x94\x8c\x05mkdir\x94\x93\x8c\x01x\x85R.")
    with pytest.raises(CodeInFileError, match=r"posix\.mkdir"):
        load_file(path)


def test_tar_is_refused_unread(tmp_path):
    (tmp_path / "storages").write_bytes(pickle.dumps(Bomb(tmp_path / "made")))
    with tarfile.open(tmp_path / "a.pth", "w") as archive:  # the format of torch before 0.2
        archive.add(tmp_path / "storages", "storages")
    with pytest.raises(ValueError, match=r"a\.pth is refused: a tar archive"):
        load_file(tmp_path / "a.pth")
    assert not (tmp_path / "made").exists()


def test_bomb_in_another_pickle_of_the_archive(tmp_path):
    """torch.load reads data.pkl alone."""
    path = tmp_path / "a.pth"
    torch.save({"n": 1}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/other.pkl", pickle.dumps(Bomb(tmp_path / "made")))
    assert load_file(path) == {"n": 1} and not (tmp_path / "made").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_any_flipped_bit_is_found_or_harms_nothing(legacy, tmp_path):
    """Each byte of a file, one bit each: refused with a message, or what is read is what was saved.

    Only the zip archive has checksums, so that of the old format no more is asked than a plain error.
    """
    path, bad = tmp_path / "a.pth", tmp_path / "bad.pth"
    state = {"w": torch.arange(10.0), "n": 3}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    messages = []
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        bad.write_bytes(changed)
        try:
            found = load_file(bad)
        except ValueError as error:
            assert "bad.pth" in str(error)
            messages.append(str(error))
            continue
        assert legacy or (found.keys() == state.keys() and found["n"] == 3)
        assert legacy or torch.equal(found["w"], state["w"])
    assert len(messages) > len(content) / 5
    assert legacy or any("checksum" in message for message in messages)


def member(name: str, size: int = 1, **changes) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    for key, value in changes.items():
        setattr(info, key, value)
    return info, b"x" * size


@pytest.mark.parametrize(
    "extra, reason",
    [
        (member("a/../../b"), "outside its own folder"),
        (member("/etc/passwd"), "outside its own folder"),
        (member("a\\..\\b"), "outside its own folder"),
        (member("a/data.pkl"), "several members of one name"),
        (member("a/big", 10_000, compress_type=zipfile.ZIP_DEFLATED), "compressed archive"),
        (member("a/link", external_attr=(stat.S_IFLNK | 0o777) << 16), "a/link is a link or a folder"),
        (member("a/pipe", external_attr=(stat.S_IFIFO | 0o666) << 16), "a/pipe is a link or a folder"),
        (member("a/folder/", 0), "a link or a folder"),
        (member("a/data/0", external_attr=0x10), "a link or a folder"),  # else torch gives out unwritten memory
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_torch_never_writes(extra, reason, tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"n": 1}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(*extra, compress_type=extra[0].compress_type)
    with pytest.raises(ValueError, match=rf"a\.pth is refused: .*{reason}"):
        load_file(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.pth"]


def test_archive_that_packs_itself_again_is_refused(tmp_path):
    """A table of contents whose members share their bytes declares more than the file has."""
    path = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(1000)}, path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start, count = archive.start_dir, len(archive.infolist())
    entries = content[start : content.index(b"PK\x06\x06", start) if b"PK\x06\x06" in content else -22]
    weights = next(b"PK\x01\x02" + entry for entry in entries.split(b"PK\x01\x02") if b"data/0" in entry)
    table = entries + b"".join(weights.replace(b"data/0", b"data/%d" % number) for number in range(1, 10))
    ending = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count + 9, count + 9, len(table), start, 0)
    path.write_bytes(content[:start] + table + ending)
    with pytest.raises(ValueError, match=r"a\.pth is refused: its members are declared to hold 4\d,\d+ bytes"):
        load_file(path)


HUGE = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}}).encode()


@pytest.mark.parametrize("size", [len(HUGE), 1 << 40, (1 << 63) - 1, 0])
def test_safetensors_that_declare_more_than_they_hold(size, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", size) + HUGE + bytes(8))
    with pytest.raises(ValueError, match=r"a\.safetensors is no readable safetensors file"):
        load_file(tmp_path / "a.safetensors")


def test_any_flipped_bit_of_our_safetensors_is_found(tmp_path):
    path = tmp_path / "a.safetensors"
    state = {"w": torch.arange(4.0), "half": torch.ones(2, 1, dtype=torch.bfloat16), "n": torch.tensor(3)}
    texts = {"model": "psp", "backbone": "resnet18"}
    save_file(state, path)
    assert load_file(path).keys() == state.keys()  # another program's: without a checksum
    save_file(state, path, texts | {CHECKSUM: checksum(state, texts)})
    content = path.read_bytes()
    assert all(torch.equal(load_file(path)[name], tensor) for name, tensor in state.items())
    passed = []
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        try:
            load_file(path)
            passed.append(content[place : place + 1])
        except ValueError as error:
            assert "a.safetensors" in str(error)
    # letters of the word "sha256", without which no checksum is compared; blanks that fill the header
    assert len(passed) <= len(CHECKSUM) + 8


def test_checksum_depends_on_names_types_shapes_and_texts():
    state = {"a": torch.zeros(2, 3), "b": torch.zeros(1)}
    sums = [
        checksum(state, {}),
        checksum({"a": torch.zeros(3, 2), "b": torch.zeros(1)}, {}),
        checksum({"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.zeros(1)}, {}),
        checksum({"a": torch.zeros(2, 3), "c": torch.zeros(1)}, {}),
        checksum(state, {"model": "x"}),
    ]
    assert len(set(sums)) == len(sums)
    assert checksum(dict(reversed(state.items())), {CHECKSUM: "x"}) == sums[0]

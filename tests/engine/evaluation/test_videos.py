"""predict.py on videos, and what a folder says of the files that it leaves out."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dataset import DATASETS
from engine.evaluation.unlabeled_images import find_images
from engine.evaluation.videos import Video, VideoFile, is_video
from models import build_model
from tests.conftest import STUDENT
from tests.processes import run_processes, run_program
from tests.pseudo_datasets import textured_image, write_image
from utils.visualize import blend, colorize

PALETTE = DATASETS["camvid"].PALETTE
CONSTANT = 4  # the class that the network predicts everywhere
COUNT, SIZE, RATE = 7, (48, 64), 12.5


@pytest.fixture(scope="module")
def constant_file(tmp_path_factory) -> Path:
    """Weights of a CamVid network that predicts one class."""
    torch.manual_seed(0)
    network = build_model(*STUDENT, len(PALETTE))
    classifier = network.get_submodule(network.classifier_names[0])
    torch.nn.init.zeros_(classifier.weight)
    classifier.bias.data = torch.eye(len(PALETTE))[CONSTANT]
    path = tmp_path_factory.mktemp("constant") / "kd_psp_mobile_mobilenetv3_small_camvid.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def words(constant_file, tmp_path) -> list:
    return ["--pretrained", constant_file, "--save-dir", tmp_path, "--save-dir-name", "out", "--device", "cpu"]


def frame(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A colour of its own, RGB."""
    return np.broadcast_to(np.array([30 * index % 240, 200, 120], np.uint8), (*size, 3))


def write_clip(path: Path, codec: str = "mp4v", count: int = COUNT, size: tuple[int, int] = SIZE) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), RATE, size[::-1])
    for index in range(count):
        writer.write(frame(index, size)[..., ::-1])
    writer.release()
    return path


def frames_of(path: Path) -> tuple[list[np.ndarray], float]:
    """All frames, RGB, and their rate."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize(
    "name, codec, flags",
    [
        ("a.mp4", "mp4v", []),
        ("b.avi", "MJPG", ["--scales", 0.5, 1, "--flip-eval", "--slide-crop", 32, 40]),
        ("c.MKV", "mp4v", ["--amp", "bf16"]),
        ("d.mov", "mp4v", ["--max-pixels", 1024]),
        ("e.webm", "VP80", ["--channels-last"]),
    ],
)
def test_blended_video_has_the_frames_size_rate_and_colours(run_main, words, tmp_path, capsys, name, codec, flags):
    clip = write_clip(tmp_path / name, codec)
    run_main("predict", *words, "--images", clip, *flags)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{name[0]}_blend.mp4"]
    frames, rate = frames_of(tmp_path / f"out/{name[0]}_blend.mp4")
    assert len(frames) == COUNT and rate == RATE and {found.shape for found in frames} == {(*SIZE, 3)}
    over = colorize(np.full(SIZE, CONSTANT), PALETTE)
    for index, found in enumerate(frames):
        assert np.abs(found.astype(int) - blend(frame(index), over)).max() <= 12  # of two lossy codecs
    assert f"{COUNT} frames in " in capsys.readouterr().out


def test_masks_of_every_frame(run_main, words, tmp_path):
    clip = write_clip(tmp_path / "a.mp4")
    run_main("predict", *words, "--images", clip, "--mask")
    assert not (tmp_path / "out/a_blend.mp4").exists()
    files = sorted((tmp_path / "out/masks/a").iterdir())
    assert [file.name for file in files] == [f"{index:06d}.png" for index in range(COUNT)]
    masks = [Image.open(file) for file in files]
    assert all(mask.mode == "P" and (np.asarray(mask) == CONSTANT).all() and mask.size == SIZE[::-1] for mask in masks)
    run_main("predict", *words, "--images", clip, "--mask", "--blend")
    assert (tmp_path / "out/a_blend.mp4").exists()


def test_last_odd_row_and_column_are_left_out(run_main, words, tmp_path):
    clip = tmp_path / "odd.avi"
    with VideoFile(tmp_path / "even.mp4", RATE) as file:
        file.write(frame(1, (33, 47)))
    assert frames_of(tmp_path / "even.mp4")[0][0].shape == (32, 46, 3)
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), RATE, (46, 32))
    writer.write(np.zeros((32, 46, 3), np.uint8))
    writer.release()
    run_main("predict", *words, "--images", clip)
    assert frames_of(tmp_path / "out/odd_blend.mp4")[0][0].shape == (32, 46, 3)


def test_damaged_videos_are_errors(run_main, words, tmp_path):
    whole = write_clip(tmp_path / "a.avi", "MJPG", count=40).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    for name, error, message in (
        (
            "cut.avi",
            ValueError,
            r"cut\.avi is damaged: it announces 40 frames, and ends after \d+, which are predicted",
        ),
        ("empty.mp4", ValueError, r"empty\.mp4 cannot be read: it is empty"),
        ("noise.mp4", ValueError, r"noise\.mp4 cannot be read: it is damaged"),
        ("gone.mp4", FileNotFoundError, "no such video"),
    ):
        with pytest.raises(error, match=message):
            run_main("predict", *words, "--images", tmp_path / name)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cut_blend.mp4"]  # of the frames that there were
    assert 5 < len(frames_of(tmp_path / "out/cut_blend.mp4")[0]) < 36


def test_what_a_video_cannot_have_is_refused(run_main, words, tmp_path):
    clip = write_clip(tmp_path / "a.mp4")
    for flags, message in ((["--panel"], "--panel with a video"), (["--bands", 1, 2, 3], "--bands with a video")):
        with pytest.raises(ValueError, match=message):
            run_main("predict", *words, "--images", clip, *flags)
    for code, _, error in run_processes(run_program, 2, "predict", [*words, "--images", clip]):
        assert code == 2 and "a video is predicted by one process" in error
    assert not (tmp_path / "out").exists()


def test_a_video_that_is_not_finished_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), VideoFile(tmp_path / "x.mp4", RATE) as file:
        file.write(frame(0))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="cannot write a video of 1x1"), VideoFile(tmp_path / "x.mp4", RATE) as file:
        file.write(frame(0, (1, 1)))
    assert not list(tmp_path.iterdir())


def test_announced_frames_and_rate(tmp_path):
    video = Video(write_clip(tmp_path / "a.mp4"))
    assert (video.announced, video.rate) == (COUNT, RATE) and sum(1 for _ in video) == COUNT
    assert "7 frames" in str(video) and "12.5 per second" in str(video)
    video.check_end(COUNT)
    with pytest.raises(ValueError, match="no frame that can be decoded"):
        video.check_end(0)
    (tmp_path / "folder.mp4").mkdir()
    assert is_video(Path("x.MP4")) and not is_video(tmp_path / "folder.mp4") and not is_video(Path("x.png"))


def test_folder_says_what_it_leaves_out(run_main, words, tmp_path, capsys):
    folder = tmp_path / "in"
    write_image(folder / "a.png", textured_image((40, 64)))
    Image.fromarray(textured_image((40, 64))).save(folder / "b.avif")
    (folder / "deep").mkdir()
    for name in ("b.mp4", "deep/c.MOV", "d.gif", "e.HEIC", "notes.txt"):
        (folder / name).touch()
    run_main("predict", *words, "--images", folder, "--mask", "--workers", 0)
    shown = capsys.readouterr().out
    assert "2 video(s) are left out (b.mp4, deep/c.MOV): name one with --images" in shown
    assert "2 picture(s) of formats that are not read are left out (d.gif, e.HEIC): convert them" in shown
    assert {path.name for path in (tmp_path / "out/masks").iterdir()} == {"a.png", "b.png"}
    for name in ("a.png", "b.avif"):
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"no image in (.|\n)*2 video\(s\)(.|\n)*2 picture\(s\)"):
        find_images(folder)
    with pytest.raises(ValueError, match=r"\.heic files are not read: convert"):
        find_images(folder / "e.HEIC")
    (folder / "list.txt").write_text("b.mp4\n")
    with pytest.raises(ValueError, match=r"list\.txt names the video .*b\.mp4"):
        find_images(folder / "list.txt")

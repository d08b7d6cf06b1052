"""Videos: read and written frame by frame, with what is predicted over each."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dataset.config import ImageConfig
from utils.visualize import Color, blend, colorize, save_indexed_png

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp")
CODEC = "mp4v"  # MPEG-4 part 2: the wheels of OpenCV have no encoder of H.264, and VP9 takes 30 times as long
USUAL_RATE = 25.0  # frames per second, where a file has no number
READ_SHARE = 0.9  # of the frames that a file announces; with fewer it is damaged


class Video:
    """A video to read.

    Attributes:
        path: the file.
        rate: frames per second.
        announced: frames by the file's header; 0 where it has no number.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no video that can be read.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"--images {path}: there is no such video")
        self.path = path
        capture = self._open()
        rate, self.announced = capture.get(cv2.CAP_PROP_FPS), max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        capture.release()
        self.rate = rate if 0 < rate <= 1000 else USUAL_RATE

    def __iter__(self) -> Iterator[np.ndarray]:
        """The frames that can be decoded, RGB, uint8 (H, W, 3), turned as the camera noted.

        Raises:
            ValueError: they differ in size.
        """
        capture, shape = self._open(), None
        try:
            while True:
                there, frame = capture.read()
                if not there:
                    break
                if frame.shape != (shape or frame.shape):
                    raise ValueError(f"{self.path}: a frame of {frame.shape[:2]} pixels follows those of {shape[:2]}")
                shape = frame.shape
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()

    def check_end(self, count: int) -> None:
        """Raises a ValueError if this many frames are not what the file announces."""
        if not count:
            raise ValueError(f"{self.path} has no frame that can be decoded: it is empty or damaged, or of {_UNKNOWN}")
        if count < READ_SHARE * self.announced:
            raise ValueError(
                f"{self.path} is damaged: it announces {self.announced} frames, and ends after {count}, which are "
                "predicted"
            )

    def __str__(self) -> str:
        frames = f"{self.announced} frames" if self.announced else "frames"
        return f"{frames} of {self.path}, {self.rate:g} per second"

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            reason = "it is empty" if not self.path.stat().st_size else f"it is damaged, cut short or of {_UNKNOWN}"
            raise ValueError(f"the video {self.path} cannot be read: {reason}")
        return capture


_UNKNOWN = "a codec that OpenCV has no decoder for"


class VideoFile:
    """A video that is written; it takes its name when the context ends, and nothing is left if it ends by an error.

    A last row or column that is odd is left out, which the codec cannot store.

    Args:
        path: an .mp4 file to write or replace.
        rate: frames per second.

    Raises:
        OSError: it cannot be written, or could not be to its end.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate, self.count = path, rate, 0
        self._temporary = path.with_name(f".{os.getpid()}.{path.name}")
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> "VideoFile":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, frame: np.ndarray) -> None:
        """Adds a frame, RGB, uint8 (H, W, 3); all have one size."""
        if self._writer is None:
            size = frame.shape[1::-1]
            code = cv2.VideoWriter_fourcc(*CODEC)
            self._writer = cv2.VideoWriter(str(self._temporary), cv2.CAP_FFMPEG, code, self.rate, size)
            if not self._writer.isOpened():
                raise OSError(f"{self.path}: OpenCV cannot write a video of {size[0]}x{size[1]} pixels ({CODEC}) there")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._writer is not None:
                self._writer.release()
            if self._writer is not None and kind is None:
                self._check()
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _check(self) -> None:
        """OpenCV says nothing of a disk that is full."""
        capture = cv2.VideoCapture(str(self._temporary))
        found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if found != self.count:
            raise OSError(
                f"{self.path} could not be written: {found} of {self.count} frames are in it; is the disk full?"
            )


def is_video(path: Path) -> bool:
    """Whether a path that is no folder is a video's by its ending."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


def check_request(world_size: int, reading: ImageConfig) -> None:
    """Refuses what cannot be done with a video; ValueError."""
    if world_size > 1:
        raise ValueError("a video is predicted by one process: start this without torchrun")
    if reading != ImageConfig():
        raise ValueError("--exif, --image-range and --bands with a video: they are for images")


def predict_video(
    label: Callable[[Tensor], Tensor],
    video: Video,
    palette: Sequence[Color],
    folder: Path,
    kinds: Sequence[str],
    progress: bool = False,
) -> str:
    """Predicts a video, one frame in memory at a time.

    Args:
        label: RGB image, uint8 (3, H, W) -> labels, uint8 (H, W).
        video: to predict.
        palette: colours of the classes.
        folder: gets <name>_blend.mp4, and below masks/<name> a palette PNG a frame, numbered from 0.
        kinds: "mask", "blend" or both.
        progress: show a bar where stderr is a terminal.

    Returns:
        What was written, how many frames and how fast.

    Raises:
        ValueError: as `Video`; of one that ends early, after what there is has been written.
        OSError: a file cannot be written.
    """
    name, start = video.path.stem, time.perf_counter()
    masks, count = folder / "masks" / name, 0
    if "mask" in kinds:
        masks.mkdir(parents=True, exist_ok=True)
    total = video.announced or None
    with VideoFile(folder / f"{name}_blend.mp4", video.rate) as blended:
        for frame in tqdm(video, total=total, unit="frame", disable=None if progress else True, dynamic_ncols=True):
            labels = label(torch.from_numpy(frame).permute(2, 0, 1)).numpy()
            if "mask" in kinds:
                save_indexed_png(labels, palette, masks / f"{count:06d}.png")
            if "blend" in kinds:
                blended.write(blend(frame, colorize(labels, palette)))
            count += 1
    video.check_end(count)
    seconds = time.perf_counter() - start
    written = [str(blended.path)] * ("blend" in kinds) + [f"{masks}{os.sep}"] * ("mask" in kinds)
    return f"{count} frames in {seconds:.1f} s, {count / seconds:.2f} per second; written to {' and '.join(written)}"

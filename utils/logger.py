"""What a run reports while it goes: console, log.txt, metrics.jsonl and TensorBoard, from the main process alone."""

import errno
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from utils.checkpoint import plain
from utils.files import write_text
from utils.sinks import LOGGERS, Sink


class RunLogger:
    """Writes a run's messages and figures below its folder; a no-op on every process but the main one.

    `log.txt` holds what the console shows, `metrics.jsonl` one JSON object a line, `tensorboard/` the event files. A
    failing write (a full disk) is reported on the console, once for each file, and the run goes on.

    Args:
        folder: the run's folder; made where it is missing.
        main_process: False turns every method into a no-op.
        tensorboard: whether to write event files.
        start_iteration: the iteration the run continues from (0 = from the start): figures of later ones, which the run
            that was interrupted has written, are cut from metrics.jsonl and ignored by TensorBoard; log.txt gets a
            line "resumed". None cuts nothing and adds to what is there.
        validation_due: the validation after `start_iteration` is to be made again, so its figures are cut too.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        main_process: bool = True,
        tensorboard: bool = True,
        start_iteration: int | None = None,
        validation_due: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.enabled = main_process
        self._use_tensorboard = tensorboard and main_process
        self._purge_step = start_iteration + 1 if start_iteration else None
        self._writer: Any = None
        self._metrics_file: Any = None
        self._reported: set[str] = set()
        self._sinks: dict[str, Sink] = {}
        # Not registered under its name: a second logger for the same folder then never doubles the lines.
        self._log = logging.Logger(f"run {self.folder}", logging.INFO)
        if not main_process:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log.addHandler(_console_handler())
        self._log.addHandler(_FileHandler(self.folder / "log.txt", self._report))
        if start_iteration is not None:
            _cut_lines(self.folder / "metrics.jsonl", start_iteration, validation_due)
        if start_iteration and (self.folder / "log.txt").is_file():
            self.info(f"resumed at iteration {start_iteration}")

    def info(self, message: str) -> None:
        """One message to the console and log.txt."""
        self._message(logging.INFO, message)

    def warning(self, message: str) -> None:
        """The same, marked as a warning."""
        self._message(logging.WARNING, message)

    def error(self, message: str) -> None:
        """The same, marked as an error."""
        self._message(logging.ERROR, message)

    def metrics(self, values: Mapping[str, Any]) -> None:
        """Adds one line to metrics.jsonl; nan, inf and -inf become strings of these names, so that it stays JSON."""
        if not self.enabled:
            return
        line = json.dumps(_jsonable(plain(dict(values))), allow_nan=False)

        def write() -> None:
            if self._metrics_file is None:
                self._metrics_file = open(self.folder / "metrics.jsonl", "a", encoding="utf-8")
            self._metrics_file.write(line + "\n")
            self._metrics_file.flush()

        self._guarded("metrics.jsonl", write)

    def scalars(self, values: Mapping[str, Any], iteration: int) -> None:
        """Curves: tag -> number, or group -> {tag -> number} for "group/tag"; None is left out."""
        curves = dict(_flat(values))
        for tag, value in curves.items():
            self._board(lambda writer, tag=tag, value=value: writer.add_scalar(tag, value, iteration))
        self._each_sink(lambda sink: sink.scalars(curves, iteration))

    def image(self, tag: str, image: np.ndarray, iteration: int) -> None:
        """A TensorBoard picture, uint8 (H, W, 3)."""
        self._board(lambda writer: writer.add_image(tag, image, iteration, dataformats="HWC"))

    def text(self, tag: str, text: str, iteration: int = 0) -> None:
        """A TensorBoard text (Markdown)."""
        self._board(lambda writer: writer.add_text(tag, text, iteration))

    def settings(self, values: Mapping[str, Any], sink: str | None = None) -> None:
        """The run's settings as a TensorBoard text, and to the sink of this name, which gets all curves from now on.

        Raises:
            ValueError: the sink cannot be made, for whatever reason its service has.
        """
        self.text("settings", "\n".join(f"    {name}: {value}" for name, value in values.items()))
        if sink is not None and self.enabled:
            try:
                self._sinks[sink] = LOGGERS[sink](self.folder, values)
            except Exception as error:
                raise ValueError(f"--logger {sink} could not be started: {error}") from error

    def last(self, name: str) -> float:
        """The last number of this name in metrics.jsonl; 0 where there is none, and on all but the main process."""
        path = self.folder / "metrics.jsonl"
        if not self.enabled or not path.exists():
            return 0.0
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return next((float(record[name]) for record in reversed(records) if name in record), 0.0)

    def flush(self) -> None:
        """Forces all figures to the disk. Called before a state is saved, so that a resumed run misses none."""

        def sync() -> None:
            if self._metrics_file is not None:
                os.fsync(self._metrics_file.fileno())

        self._guarded("metrics.jsonl", sync)
        if self._writer is not None:
            self._board(lambda writer: writer.flush())

    def close(self) -> None:
        """Closes all files; a later call opens what it needs again. Calling it twice does no harm."""
        self._each_sink(lambda sink: sink.close())
        self._sinks.clear()
        self._close_files()
        for handler in self._log.handlers:
            self._guarded("log.txt", handler.close)

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _message(self, level: int, message: str) -> None:
        if self.enabled:
            self._log.log(level, "%s", message)

    def _board(self, write: Callable[[Any], None]) -> None:
        """Runs `write` with the TensorBoard writer, made at first use: importing it takes seconds."""
        if not self._use_tensorboard:
            return
        if self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                self._use_tensorboard = False
                self.warning(f"no TensorBoard curves: {error} (pip install tensorboard)")
                return

            def build() -> None:
                if not self.folder.is_dir():  # which it would make anew, where a mount has vanished
                    raise FileNotFoundError(errno.ENOENT, "the run's folder has gone", str(self.folder))
                self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self._purge_step)
                self._purge_step = None  # of the first writer alone

            self._guarded("tensorboard", build)
        if self._writer is not None and not self._guarded("tensorboard", lambda: write(self._writer)):
            self._writer = None  # its thread ends with its first error; the next figures get another one

    def _guarded(self, name: str, action: Callable[[], None]) -> bool:
        """Whether the action went well; a file that cannot be written is reported."""
        try:
            action()
        except OSError as error:
            self._report(name, error)
            return False
        return True

    def _report(self, name: str, error: BaseException) -> None:
        if name not in self._reported:
            self._reported.add(name)
            _console(
                f"WARNING cannot write {self.folder / name} ({error}): lines will be missing there, the run goes on"
            )

    def _each_sink(self, action: Callable[[Sink], None]) -> None:
        """A sink that fails, in whatever way its service does, is reported and used no more; the run goes on."""
        for name, sink in list(self._sinks.items()):
            try:
                action(sink)
            except Exception as error:
                del self._sinks[name]
                self.warning(f"--logger {name} failed and gets no more curves: {error}")

    def _close_files(self) -> None:
        if self._metrics_file is not None:
            self._guarded("metrics.jsonl", self._metrics_file.close)
            self._metrics_file = None
        if self._writer is not None:
            self._guarded("tensorboard", self._writer.close)
            self._writer = None


class _FileHandler(logging.FileHandler):
    """Adds lines to a file; a failing write is reported once instead of a traceback for each line."""

    def __init__(self, path: Path, report: Callable[[str, BaseException], None]) -> None:
        super().__init__(path, mode="a", encoding="utf-8", delay=True)
        self._report = report
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError as error:  # the file could not be opened
            self._report("log.txt", error)

    def handleError(self, record: logging.LogRecord) -> None:
        self._report("log.txt", sys.exc_info()[1] or OSError("unknown error"))


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _console(self.format(record))


class _ConsoleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname} {text}"


def _console_handler() -> logging.Handler:
    handler = _ConsoleHandler()
    handler.setFormatter(_ConsoleFormatter("%(message)s"))
    return handler


def _console(text: str) -> None:
    """Prints above any active progress bar instead of through it."""
    try:
        if getattr(tqdm, "_instances", None):
            tqdm.write(text, file=sys.stdout)
        else:
            print(text, flush=True)
    except (OSError, ValueError):  # the terminal has gone; log.txt still has the line
        pass


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for tag, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{tag}/")
        elif value is not None:
            yield f"{prefix}{tag}", float(value)


def _jsonable(obj: Any) -> Any:
    """`plain` data with tensors as numbers or lists and non-finite floats as strings."""
    if isinstance(obj, Tensor):
        obj = obj.tolist()
    if isinstance(obj, float) and not math.isfinite(obj):
        return "nan" if math.isnan(obj) else ("inf" if obj > 0 else "-inf")
    if isinstance(obj, dict):
        return {str(key): _jsonable(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_jsonable(value) for value in obj]
    return obj


def _cut_lines(path: Path, iteration: int, validation_due: bool) -> None:
    """Removes the lines of later iterations from metrics.jsonl, and a last line without an end."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _stays(line, iteration, validation_due)]
    if kept != lines:
        write_text(path, "".join(kept))


def _stays(line: str, iteration: int, validation_due: bool) -> bool:
    """Whether a line of metrics.jsonl is of no later iteration; one without an iteration is."""
    try:
        value = json.loads(line)
    except ValueError:
        return False
    if not isinstance(value, dict):
        return False
    last = iteration - 1 if validation_due and "validation" in value else iteration
    return not isinstance(value.get("iteration"), (int, float)) or value["iteration"] <= last

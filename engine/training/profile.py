"""A trace of some steps of a run: where time and memory go."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile, schedule

from utils.files import write_text
from utils.logger import RunLogger

FOLDER = "profile"
TRACE, TABLE = "trace.json", "operations.txt"
WARMUP_STEPS = 3  # kernels are chosen and compiled, buffers grow
TABLE_ROWS = 40


class StepProfiler:
    """Traces steps of the training loop with torch's profiler and writes them to the run's folder.

    The first WARMUP_STEPS of the process are left out, then `steps` are traced, then nothing is done any more. The
    profiler looks on: the run computes what it would without it, more slowly while it is traced.

    Args:
        folder: the run's; the trace (for chrome://tracing or ui.perfetto.dev) and a table of the operations that take
            the most time and memory go to its `profile/`. Writing them takes seconds, which count as training.
        steps: how many to trace.
        logger: gets the place of the files.
        device: the one that trains.
    """

    def __init__(self, folder: Path, steps: int, logger: RunLogger, device: torch.device) -> None:
        self._folder, self._logger, self._device = folder / FOLDER, logger, device
        self._steps = steps
        self._done = 0
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        self._profiler: profile | None = profile(
            activities=activities,
            schedule=schedule(wait=WARMUP_STEPS - 1, warmup=1, active=steps, repeat=1),
            on_trace_ready=self._try_to_write,
            profile_memory=True,
            acc_events=True,
        )
        self._profiler.start()

    def step_done(self) -> None:
        """Books a step; after the last one that is traced, writes the files."""
        if self._profiler is None:
            return
        self._done += 1
        if self._device.type == "cuda" and self._done == WARMUP_STEPS + self._steps:
            torch.cuda.synchronize(self._device)  # what the steps have queued belongs to them
        self._profiler.step()
        if self._done == WARMUP_STEPS + self._steps:
            self.close()

    def close(self) -> None:
        """Ends the trace, also where training ended before all its steps."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        if self._done <= WARMUP_STEPS:
            self._logger.warning(
                f"--profile wrote nothing: {self._done} steps were done, and the first {WARMUP_STEPS} are not traced."
            )

    def _try_to_write(self, profiler: profile) -> None:
        try:
            self._write(profiler)
        except OSError as error:  # no reason to lose the run
            self._logger.warning(f"--profile could not be written to {self._folder}: {error}")

    def _write(self, profiler: profile) -> None:
        if self._done <= WARMUP_STEPS:  # ended before a step was traced
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self._folder / TRACE))
        averages = profiler.key_averages()
        where = self._device.type
        titles = {f"self_{where}_time_total": "time", f"self_{where}_memory_usage": "memory"}
        tables = [_parts(averages, where, self._done - WARMUP_STEPS)]
        tables += [
            f"operations by {title} on the {where}, {self._done - WARMUP_STEPS} steps\n\n"
            + averages.table(sort_by=key, row_limit=TABLE_ROWS, max_name_column_width=60)
            for key, title in titles.items()
        ]
        write_text(self._folder / TABLE, "\n\n".join(tables) + "\n")
        self._logger.info(f"profile of {self._done - WARMUP_STEPS} steps: {self._folder / TRACE}, {TABLE} beside it")


def _parts(averages: Sequence[FunctionEventAvg], device: str, steps: int) -> str:
    """The step's named parts (some contain others), with what they contain, milliseconds a step."""
    parts = [event for event in averages if event.is_user_annotation and not event.key.startswith("ProfilerStep")]
    rows = {event.key: max(event.cpu_time_total, event.device_time_total) / steps / 1000 for event in parts}
    lines = [f"{name:30s} {time:10.2f}" for name, time in sorted(rows.items(), key=lambda row: -row[1])]
    return "\n".join([f"parts of a step, ms (host, or {device} where that is longer)", "", *lines])

"""What a training run shows of its progress: log lines, records, curves, the bar, warnings about losses, a profile."""

import torch
from tqdm import tqdm

from engine.config.schema import TrainConfig
from engine.run.directory import RunDirectory
from engine.run.state import TrainState
from engine.training.health import LossHealth, bank_filling
from engine.training.profile import StepProfiler
from losses.balance import ITERATIONS
from losses.gradients import TASK
from utils.distributed import is_main_process
from utils.logger import RunLogger
from utils.memory import peak_rss_mib
from utils.meters import RateMeter, format_duration
from utils.metrics import SegMetrics


class TrainingMonitor:
    """Watches the loop and writes to the run's logger; entered, it shows a bar where stderr is a terminal.

    Args:
        state: what trains.
        config: of the run.
        device: where it trains.
        run: names the folder.
        logger: writes on the main process.
    """

    def __init__(
        self, state: TrainState, config: TrainConfig, device: torch.device, run: RunDirectory, logger: RunLogger
    ) -> None:
        self.state, self.device, self.logger = state, device, logger
        self._optim, self._log_iter = config.optim, config.run.log_iter
        self._rates = RateMeter()
        self._health: dict[str, dict[str, float]] = {}
        self._loss_health = LossHealth()
        self._balance_logged = False
        self._profiler = None
        if config.run.profile is not None and is_main_process():
            self._profiler = StepProfiler(run.folder, config.run.profile, logger, device)
        self._bar = tqdm(
            total=config.optim.max_iterations if config.optim.max_seconds is None else None,
            initial=state.iteration,
            unit="it",
            disable=None if is_main_process() else True,
            dynamic_ncols=True,
        )

    def __enter__(self) -> "TrainingMonitor":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        if self._profiler is not None:
            self._profiler.close()  # the trace is kept where training ends early, too

    def data_ready(self) -> None:
        """Books the time since the last step as waiting for data."""
        self._rates.data_ready()

    def step_done(self, health: dict[str, dict[str, float]]) -> None:
        """Books a step; `health` is what `train_step` returned."""
        self._health = health or self._health
        if self._profiler is not None:
            self._profiler.step_done()
        self._rates.step_done(self._optim.batch_size)
        self._bar.update()

    def skip_time(self) -> None:
        """Leaves the time since the last step out of the speed."""
        self._rates.skip()

    def log(self) -> None:
        """Reads the meters, which is a collective, and writes a line, a record, curves and the bar's end."""
        state, optim = self.state, self._optim
        losses = state.meter.read(across_processes=True)
        total, speed = sum(losses.values()), self._rates.read()
        lr = state.optimizer.param_groups[0]["lr"]  # lr_mult is 1 there
        of_all, remaining = f"/{optim.max_iterations}", self._rates.eta(optim.max_iterations - state.iteration)
        if optim.max_seconds is not None:
            of_all = f" ({state.seconds:.0f} of {optim.max_seconds:g} s)"
            remaining = format_duration(optim.max_seconds - state.seconds)
        terms = "  ".join(f"{name.removeprefix('loss_')} {value:.4g}" for name, value in losses.items())
        self.logger.info(
            f"iteration {state.iteration}{of_all}  loss {total:.4f}  {terms}  lr {lr:.3g}  "
            f"{speed.get('images_per_second', 0):.1f} images/s  eta {remaining}"
        )
        cuda = self.device.type == "cuda"
        memory = torch.cuda.max_memory_allocated(self.device) / 2**20 if cuda else peak_rss_mib()
        record = {"iteration": state.iteration, "lr": lr, "loss": total, **losses} | speed
        record |= {"memory_mib": memory, "train_seconds": state.seconds}
        curves = {"train/loss": total, "lr": lr} | {f"train/{name}": value for name, value in losses.items()}
        curves |= {f"speed/{name}": value for name, value in speed.items()}
        balance = getattr(state.task, "balance", None)
        if self._health:
            health, self._health = self._health, {}
            banks = bank_filling(state.task)
            for text in self._loss_health.warnings(health):
                self.logger.info(f"WARNING: {text}")
            record |= {"health": health, "banks": banks}
            curves |= {f"health/{name}": figures for name, figures in health.items()}
            curves |= {f"banks/{name}": share for name, share in banks.items()}
        if balance is not None:
            factors = balance.values()
            record |= {"balance": factors}
            curves |= {f"balance/{name}": value for name, value in factors.items()}
            if not self._balance_logged and state.iteration >= ITERATIONS:
                self._balance_logged = True
                self.logger.info(f"balance, the factors of the weights from here on: {balance.describe()}")
        self.logger.metrics(record)
        self.logger.scalars(curves, state.iteration)
        best = f"{state.best.miou:.2%}" if state.best.iteration else "-"
        self._bar.set_postfix_str(f"best mIoU {best}  loss {total:.3f}  {terms}")
        self._require_labels(losses)

    def _require_labels(self, losses: dict[str, float]) -> None:
        """Ends a run whose first log interval held no labelled pixel, on all processes alike."""
        one_class = len(self.state.data.get("classes", ())) == 1  # whose loss is always 0
        if self.state.iteration <= self._log_iter and losses.get(TASK) == 0 and not one_class:
            raise ValueError(
                f"no pixel of the first {self.state.iteration} iterations has a class: all that was drawn is void. "
                "python -m dataset.check counts the pixels of each class; --mask-values and --void-values say what the "
                "masks' values mean"
            )

    def log_validation(self, metrics: SegMetrics) -> None:
        """Writes the figures of the validation at the present iteration, of all classes and of each."""
        state = self.state
        figures = {name: getattr(metrics, name) for name in ("miou", "miou_present", "macc", "pixel_accuracy")}
        self.logger.info(
            f"validation at {state.iteration}: {metrics.describe_miou()}  mAcc {metrics.macc:.2%}  "
            f"pixel accuracy {metrics.pixel_accuracy:.2%}  best mIoU {state.best.miou:.2%} at {state.best.iteration}"
        )
        classes = dict(zip(state.data.get("classes", ()), metrics.iou.tolist(), strict=False))
        if classes:
            self.logger.info("IoU %: " + ", ".join(f"{name} {100 * iou:.1f}" for name, iou in classes.items()))
        record = {"iteration": state.iteration, "train_seconds": state.seconds}
        self.logger.metrics(record | {"validation": figures | {"class_iou": classes}})
        self.logger.scalars({"val": figures, "val_iou": classes}, state.iteration)

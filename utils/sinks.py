"""Where a run's settings and curves can go beside its own folder: `--logger NAME`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Sink(Protocol):
    """Takes a run's settings when it is made and its curves as they come, on the main process alone.

    Args:
        folder: the run's; it names the run.
        settings: by name, built-in types.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None: ...

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Curves at an iteration, by names such as "train/loss"."""

    def close(self) -> None:
        """The run has ended."""


class WandbSink:
    """Weights & Biases; a resumed run is a new W&B run in the group named after the run's folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(project="cirkdv2", group=folder.name, dir=str(folder), config=dict(settings))

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        self._run.log(dict(values), step=iteration)

    def close(self) -> None:
        self._run.finish()


class MLflowSink:
    """MLflow, where its environment variables say."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.start_run(run_name=folder.name)
        mlflow.log_params(dict(settings))

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        self._mlflow.log_metrics(dict(values), step=iteration)

    def close(self) -> None:
        self._mlflow.end_run()


LOGGERS: dict[str, type[Sink]] = {"wandb": WandbSink, "mlflow": MLflowSink}

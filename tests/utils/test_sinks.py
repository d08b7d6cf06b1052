"""--logger sends settings and curves to a service; both are replaced by fake modules."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from tests.conftest import metric_lines
from utils.logger import RunLogger
from utils.sinks import LOGGERS


class Service(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.started, self.settings, self.curves, self.ended = None, None, [], 0
        self.log_metrics = self.log

    def init(self, *, project, group, dir, config):
        self.started, self.settings = group, config
        return SimpleNamespace(log=self.log, finish=self.end_run)

    def start_run(self, *, run_name):
        self.started = run_name

    def log_params(self, settings):
        self.settings = settings

    def log(self, values, step):
        self.curves.append((step, values))

    def end_run(self):
        self.ended += 1


@pytest.fixture
def service(request, monkeypatch):
    module = Service(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


@pytest.mark.parametrize("service", ["wandb", "mlflow"], indirect=True)
def test_a_run_sends_its_settings_and_curves(service, run_main, baseline, tmp_path):
    run_main("train_baseline", *baseline, "--logger", service.__name__, "--max-iterations", 2, "--log-iter", 1)
    assert service.started == "run" and service.settings["max_iterations"] == 2 and service.ended == 1
    sent = {}
    for step, values in service.curves:
        sent.setdefault(step, {}).update(values)
    for line in metric_lines(tmp_path / "run"):
        if "validation" in line:
            assert sent[line["iteration"]]["val/miou"] == line["validation"]["miou"]
        else:
            assert sent[line["iteration"]]["train/loss"] == line["loss"]
    assert sorted(sent) == [1, 2] and any(name.startswith("val_iou/") for name in sent[2])


@pytest.mark.parametrize("service", ["wandb"], indirect=True)
def test_a_failing_service_is_reported_once_and_the_run_goes_on(service, tmp_path, capsys):
    with RunLogger(tmp_path, tensorboard=False) as logger:
        logger.settings({}, "wandb")
        logger._sinks["wandb"]._run.log = lambda *args, **kwargs: 1 / 0
        for iteration in (1, 2):
            logger.scalars({"loss": 1.0}, iteration)
    assert capsys.readouterr().out.count("--logger wandb failed and gets no more curves: division by zero") == 1


@pytest.mark.parametrize("service", ["mlflow"], indirect=True)
def test_a_service_that_cannot_be_started_is_an_error(service, run_main, baseline, tmp_path):
    service.start_run = lambda run_name: 1 / 0
    with pytest.raises(ValueError, match="--logger mlflow could not be started: division by zero"):
        run_main("train_baseline", *baseline, "--logger", "mlflow")


def test_other_processes_send_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGERS, "broken", lambda *args: 1 / 0)
    RunLogger(tmp_path, main_process=False).settings({}, "broken")


def test_missing_packages_and_unknown_loggers_are_errors(run_main, baseline):
    with pytest.raises(ValueError, match="--logger mlflow: its package is not installed here: pip install mlflow"):
        run_main("train_baseline", *baseline, "--logger", "mlflow")
    with pytest.raises(ValueError, match="--logger csv: expected one of wandb, mlflow"):
        run_main("train_baseline", *baseline, "--logger", "csv")

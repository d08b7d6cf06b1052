"""Specifications: files, flags, merging, and what is refused before anything runs."""

import json

import pytest
import yaml

import compare
from comparison.costs import ENDLESS
from comparison.flags import flag_words, parse_flags
from comparison.jobs import check_before_running, make_jobs, training_command
from comparison.spec import add_spec_args, make_spec, read_spec
from comparison.summary import rules
from utils.cli import Parser


def parse(*words) -> dict:
    parser = Parser("")
    add_spec_args(parser)
    return vars(parser.parse_args([str(word) for word in words]))


@pytest.mark.parametrize("write", [yaml.safe_dump, json.dumps])
def test_file_and_flags_merge(tmp_path, values, write):
    (tmp_path / "spec").write_text(write(values))
    args = parse(tmp_path / "spec", "--seeds", 3, "--student-backbone", "mobilenetv3_large", "--seconds", 5)
    spec = read_spec(args, ["--lr", "0.5", "--batch-size=4"])
    assert (spec.seeds, spec.iterations, spec.seconds) == ((3,), None, 5.0)
    assert spec.student == {"model": "psp_mobile", "backbone": "mobilenetv3_large"}
    assert spec.train_flags == {"crop-size": ["40", "56"], "batch-size": ["4"], "lr": ["0.5"]}


def test_flags_alone_are_enough(tmp_path, data_root):
    words = ["--dataset", "custom", "--data", data_root, "--output", tmp_path, "--student-model", "psp_mobile"]
    words += ["--student-backbone", "mobilenetv3_small", "--methods", "alone=baseline", "--iterations", 5]
    spec = read_spec(parse(*words))
    assert [(method.name, method.method) for method in spec.methods] == [("alone", "baseline")]
    assert spec.seeds == (0,) and spec.teacher == {}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sedes": [1]}, "unknown key sedes: there are dataset, data"),
        ({"dataset": None}, "dataset not given"),
        ({"student": {"model": "psp"}}, "student: backbone not given"),
        ({"student": {"model": "psp", "backbone": "resnet18", "depth": 3}}, "student: unknown key depth"),
        ({"methods": ["baseline", "cirkd_v2"]}, "unknown method 'cirkd_v2' in 'cirkd_v2': there are baseline, cirkdv2"),
        ({"methods": ["kd+nothing"]}, "unknown method 'nothing'"),
        ({"methods": ["kd+baseline"]}, "unknown method 'baseline'"),
        ({"methods": ["kd", "kd"]}, "expected names that differ"),
        ({"methods": [{"name": "x"}]}, "name, method, flags and seeds"),
        ({"methods": [{"method": "baseline", "seeds": [1, 1]}]}, "seeds of baseline [1, 1]: expected different whole"),
        ({"method_flags": {"at": "--lambda-at 1"}}, "method_flags for at: methods are baseline, cirkdv2"),
        ({"teacher": None}, "cirkdv2 need a teacher"),
        ({"seeds": [0, 0]}, "different whole numbers"),
        ({"seeds": [-1]}, "different whole numbers"),
        ({"iterations": None}, "one of iterations and seconds"),
        ({"seconds": 5}, "one of iterations and seconds"),
        ({"iterations": 0}, "--iterations 0: expected a whole number of at least 1"),
        ({"split": "train"}, "--split 'train': expected one of val, test"),
        ({"pictures": -1}, "--pictures -1"),
        ({"train_flags": "--seed 4"}, "--seed is set by the comparison: use its key seeds"),
        ({"train_flags": "4 --lr 2"}, "'4' comes before the first flag"),
        ({"checkpoint": "best", "train_flags": "--skip-val"}, "checkpoint best with --skip-val"),
        ({"train_flags": "--amp auto"}, "--amp auto (train_flags): each run would choose its own"),
        ({"method_flags": {"cirkdv2": "--amp auto"}}, "--amp auto (cirkdv2): each run"),
    ],
)
def test_refusals(values, change, message):
    with pytest.raises(ValueError) as error:
        make_spec(values | change)
    assert message in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        read_spec(parse(tmp_path / "none.yaml"))


FLAGS = {"crop-size": ["4", "8"], "x-y": ["-1.5"], "flag": [], "no-aux": [], "dropout": [], "workers": ["2"]}


@pytest.mark.parametrize(
    "given",
    [
        "--crop-size 4 8 --x-y=-1.5 --flag --no-aux --dropout -j 2",
        {"crop_size": [4, 8], "--x-y": -1.5, "flag": True, "aux": False, "no_dropout": False, "j": 2, "lr": None},
    ],
)
def test_flags_in_all_forms(given):
    flags = parse_flags(given, "here")
    assert flags == FLAGS
    assert flag_words(flags) == "--crop-size 4 8 --x-y -1.5 --flag --no-aux --dropout --workers 2".split()


def test_jobs_are_the_matrix_with_every_seed_complete_before_the_next(values):
    methods = ["baseline", "cirkdv2", {"name": "at, strong", "method": "at+dist", "flags": "--lambda-at 5"}]
    flags = {"cirkdv2": "--lambda-kd 3 --batch-size 8"}
    jobs = make_jobs(make_spec(values | {"methods": methods, "method_flags": flags}))
    assert [(job.method.name, job.seed) for job in jobs] == [
        (name, seed) for seed in (0, 1) for name in ("baseline", "cirkdv2", "at, strong")
    ]
    assert [job.program for job in jobs[:3]] == ["train_baseline.py", "train_cirkdv2.py", "train_kd.py"]
    assert [job.folder.name for job in jobs[:3]] == ["baseline_seed0", "cirkdv2_seed0", "at-strong_seed0"]
    assert jobs[0].flags["batch-size"] == ["2"] and jobs[1].flags["batch-size"] == ["8"]
    assert jobs[2].flags["method"] == ["at+dist"] and jobs[2].flags["lambda-at"] == ["5"]
    assert "teacher-pretrained" in jobs[1].flags and "teacher-pretrained" not in jobs[0].flags
    assert [job.save_predictions for job in jobs] == [True] * 3 + [False] * 3


def test_a_method_can_have_seeds_of_its_own(values):
    jobs = make_jobs(make_spec(values | {"seeds": 1, "methods": ["cirkdv2", {"method": "baseline", "seeds": [2, 1]}]}))
    assert [job.name for job in jobs] == ["cirkdv2, seed 1", "baseline, seed 1", "baseline, seed 2"]
    assert [job.save_predictions for job in jobs] == [True, True, False]
    jobs = make_jobs(make_spec(values | {"seeds": 1, "methods": [{"method": "baseline", "seeds": [4, 5]}]}))
    assert [(job.seed, job.save_predictions) for job in jobs] == [(4, True), (5, False)]  # the report shows the first's


def test_time_budget_is_passed_on(values):
    spec = make_spec(values | {"iterations": None, "seconds": 90, "processes": 2})
    command = training_command(make_jobs(spec)[0], spec)
    assert command[command.index("--max-seconds") + 1] == "90"
    assert command[command.index("--max-iterations") + 1] == str(ENDLESS)
    assert "--nproc-per-node=2" in command


def test_equal_seconds_by_the_cost_of_a_step(tmp_path, values):
    path = tmp_path / "cost.json"
    path.write_text(json.dumps({"seconds_per_step": {"baseline": 0.5, "cirkdv2": 1.25, "other": 1}}))
    values |= {"iterations": 100, "equal_seconds_by_cost": path}
    spec = make_spec(values)
    assert [job.flags["max-iterations"] for job in make_jobs(spec)][:2] == [["100"], ["40"]]
    assert spec.budget == "train_seconds" and "cost.json" in rules(spec)["equal_time"]
    with pytest.raises(ValueError, match=r"holds no cost of at; it has baseline, cirkdv2, other.*benchmarks\.cost"):
        make_jobs(make_spec(values | {"methods": ["baseline", "at"]}))
    for change in ({"methods": ["at"]}, {"iterations": None, "seconds": 9}):
        with pytest.raises(
            ValueError, match="expected iterations, those of the baseline, and a row of method baseline"
        ):
            make_spec(values | change)
    for text in ("[1]", '{"seconds_per_step": {"baseline": 0}}', "{", '{"seconds_per_step": {"baseline": "x"}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="expected JSON with seconds_per_step"):
            make_jobs(make_spec(values))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"cost\.json: there is no such file"):
        make_jobs(make_spec(values))


def test_all_invalid_flags_are_in_one_message(values):
    flags = {"cirkdv2": "--lambda-kd -1", "baseline": "--no-such-flag 3"}
    spec = make_spec(values | {"method_flags": flags})
    with pytest.raises(ValueError) as error:
        check_before_running(spec, make_jobs(spec))
    assert "--no-such-flag" in str(error.value) and "--lambda-kd -1" in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"student": {"model": "psp_mobile", "backbone": "resnet999"}}, "no backbone 'resnet999'"),
        ({"teacher": {"checkpoint": "/nowhere/t.pth"}}, "no checkpoint /nowhere/t.pth"),
    ],
)
def test_missing_inputs_are_reported_before_the_first_run(values, change, message):
    spec = make_spec(values | change)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        check_before_running(spec, make_jobs(spec))
    assert message in str(error.value)


def test_values_that_look_like_flags_are_values(monkeypatch, tmp_path, values):
    (tmp_path / "spec").write_text(yaml.safe_dump(values))
    words = ["compare.py", str(tmp_path / "spec"), "--method-flags", "cirkdv2", "--no-context", "--eval-flags"]
    monkeypatch.setattr("sys.argv", [*words, "--scales 0.5 a_b", "--", "--lr", "1"])
    _, spec = compare.parse_args()
    assert spec.methods[1].flags == {"no-context": []}
    assert spec.eval_flags == {"scales": ["0.5", "a_b"]} and spec.train_flags["lr"] == ["1"]

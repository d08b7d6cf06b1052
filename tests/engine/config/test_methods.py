"""train_kd.py: which methods and weights a command line means, and that each trains, resumes and is saved."""

import math
import re
from dataclasses import fields

import pytest
import torch
import yaml

import train_kd
from engine.config.methods import KDConfig, method_names, other_methods
from tests.configs import make_config
from tests.conftest import assert_same_runs, at_step, interrupt, metric_lines
from tests.processes import run_mains, run_processes
from utils.checkpoint import load_file
from utils.flags import differences, record

TERMS = {
    "kd": {"kd"},
    "at": {"kd", "at"},
    "fitnet": {"kd", "fitnet"},
    "skd": {"kd", "skd", "adv", "d"},
    "ifvd": {"kd", "ifv", "adv", "d"},
    "cwd": {"kd", "cwd_fea", "cwd_logit", "adv", "d"},
    "dsd": {"psd", "csd"},
    "cirkd": {"kd", "minibatch_pixel", "memory_pixel", "memory_region"},
    "dist": {"dist"},
    "mgd": {"kd", "mgd"},
    "dkd": {"dkd"},
    "af_dcd": {"kd", "afdcd_feature", "afdcd_contrast"},
    "nfd": {"kd", "nfd"},
    "attnfd": {"attnfd"},
}


def resolve(method: str | None, student: str = "psp_mobile", **flags) -> KDConfig:
    return make_config(KDConfig, method=method, student_model=student, seed=5, **flags)


def weights(configs: dict) -> dict[str, float]:
    """Weights above 0 of all configs, by term."""
    found = {}
    for name, config in configs.items():
        assert type(config) is other_methods()[name].Config
        for field in fields(config):
            if field.name.endswith("_weight") and getattr(config, field.name):
                found[field.name.removesuffix("_weight")] = getattr(config, field.name)
    return found


@pytest.fixture
def words_of_kd(distillation) -> list:
    """The tiny distillation without the flags that are CIRKDV2's own."""
    words = list(distillation)
    for flag in ("--channel-memory-size", "--channel-contrast-size"):
        del words[words.index(flag) : words.index(flag) + 2]
    return words


def test_every_method_is_listed():
    assert set(method_names()) == set(TERMS)


@pytest.mark.parametrize("method", TERMS)
def test_method_sets_its_published_terms(method):
    configs = resolve(method).methods.active
    assert weights(configs).keys() == TERMS[method]


def test_published_weights():
    expected = {
        "kd": 1, "at": 1e4, "fitnet": 10, "skd": 10, "ifv": 20, "cwd_fea": 50, "cwd_logit": 3, "adv": 0.001, "d": 0.1,
        "psd": 1000, "csd": 10, "minibatch_pixel": 1, "memory_pixel": 0.1, "memory_region": 0.1, "dist": 1, "mgd": 2e-5,
        "dkd": 1, "afdcd_feature": 4e-5, "afdcd_contrast": 0.001, "nfd": 4, "attnfd": 1,
    }  # fmt: skip
    configs = resolve("+".join(method_names())).methods.active
    assert weights(configs) == expected
    assert weights(resolve("cwd", student="SegFormer").methods.active) == {
        "kd": 1, "cwd_fea": 5, "cwd_logit": 0.3, "adv": 0.001, "d": 0.1,
    }  # fmt: skip


def test_methods_combine_and_flags_win():
    assert weights(resolve("kd+cwd").methods.active) == weights(resolve("cwd").methods.active)
    assert weights(resolve("at+dist").methods.active) == {"kd": 1, "at": 1e4, "dist": 1}
    assert weights(resolve("at", at_weight=7.0, dist_weight=2.0).methods.active) == {"kd": 1, "at": 7, "dist": 2}
    assert weights(resolve(None, dist_weight=2.0).methods.active) == {"dist": 2}
    assert weights(resolve("skd", adv_weight=0.0).methods.active) == {"kd": 1, "skd": 10}
    assert weights(resolve(None, adv_weight=0.5).methods.active) == {"adv": 0.5, "d": 0.1}
    config = resolve("cirkd", pixel_memory_size=7)
    cirkd = config.methods.active["cirkd"]
    assert cirkd.pixel_memory_size == 7 and cirkd.seed == 5
    assert record(config)["at_weight"] == 0 and record(config)["kd_weight"] == 1  # so that a resume compares them


@pytest.mark.parametrize(
    "method, flags, message",
    [
        ("at+nothing", {}, "there is no 'nothing'"),
        ("cirkdv2", {}, "train_cirkdv2.py"),
        (None, {}, "nothing to distil by"),
        ("kd", {"kd_weight": 0.0}, "nothing to distil by"),
    ],
)
def test_what_cannot_be_trained_is_refused(method, flags, message):
    with pytest.raises(ValueError, match=message):
        resolve(method, **flags)


def test_methods_do_not_share_a_folder():
    config = resolve("at+cwd", "psp", student_backbone="resnet18", dataset="citys")
    assert config.run_name == "at_cwd_psp_resnet18_citys"


@pytest.mark.parametrize(
    "method",
    [name if name in ("skd", "cirkd", "mgd") else pytest.param(name, marks=pytest.mark.slow) for name in TERMS],
)
def test_each_method_trains_and_resumes_bit_for_bit(run_main, words_of_kd, tmp_path, monkeypatch, method):
    words = [*words_of_kd, "--method", method, "--skip-val", "--max-iterations", 2]
    run_main("train_kd", *words)
    (first, _) = metric_lines(tmp_path / "run")
    assert {name.removeprefix("loss_") for name in first if name.startswith("loss_")} == TERMS[method] | {"task"}
    assert all(math.isfinite(value) for name, value in first.items() if name.startswith("loss"))
    assert (tmp_path / "run/kd_psp_mobile_mobilenetv3_small_custom.pth").is_file()

    half = [*words, "--save-dir-name", "half", "--save-per-iters", 1]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 2, interrupt)
        run_main("train_kd", *half)
    run_main("train_kd", *half, "--resume", "auto")
    assert_same_runs(tmp_path / "run", tmp_path / "half", "save_per_iters")


def test_all_methods_together_do_not_depend_on_the_number_of_processes(run_main, words_of_kd, tmp_path):
    words = [*words_of_kd, "--method", "+".join(method_names()), "--batch-size", 4, "--max-iterations", 1]
    words += ["--skip-val", "--freeze-bn", "--no-dropout", "--bank-dtype", "float32"]
    run_main("train_kd", *words, "--save-dir-name", "with_1")
    run_processes(run_mains, 2, ("train_kd", [*words, "--save-dir-name", "with_2"]))
    one, two = (metric_lines(tmp_path / f"with_{processes}")[0] for processes in (1, 2))
    terms = [name for name in one if name.startswith("loss_")]
    assert len(terms) == 1 + len(set().union(*TERMS.values()))
    for name in terms:
        assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
    one, two = (load_file(tmp_path / f"with_{processes}/last_state.pth") for processes in (1, 2))
    for part in ("network", "distiller"):
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_warm_up_scales_the_weights_but_not_the_discriminators(run_main, words_of_kd, tmp_path):
    words = [*words_of_kd, "--method", "skd", "--skip-val", "--max-iterations", 1]
    run_main("train_kd", *words)
    run_main("train_kd", *words, "--save-dir-name", "warm", "--distill-warmup-iters", 4)
    (whole,), (warm,) = (metric_lines(tmp_path / name) for name in ("run", "warm"))
    for name in ("loss_kd", "loss_skd", "loss_adv"):
        assert warm[name] == pytest.approx(whole[name] / 4, rel=1e-5)
    assert warm["loss_d"] == pytest.approx(whole["loss_d"], rel=1e-5)


def test_a_state_from_before_a_hyper_parameter_resumes():
    older = record(resolve("dkd"))
    del older["dkd_temperature"], older["dist_weight"]
    assert differences(older, resolve("dkd")) == []
    assert differences(older, resolve("dkd", dkd_temperature=2.0)) == ["--dkd-temperature was 1.0 and is now 2.0"]
    assert differences(older, resolve("dkd", dist_weight=1.0)) == ["--lambda-dist was 0.0 and is now 1.0"]


def from_file(tmp_path, values: dict, *words):
    """The config of a `train_kd.py` that reads `values` from a file and has these flags."""
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(values))
    needed = ["--teacher-pretrained", "t.pth", "--dataset", "citys", "--data", "x"]
    return train_kd.parse([*needed, "--config", str(file), *map(str, words)])


def test_the_methods_of_a_file_give_way_to_those_of_a_flag(tmp_path):
    recorded = record(from_file(tmp_path, {"method": "at"}))
    assert from_file(tmp_path, recorded).methods.active.keys() == {"at", "kd"}
    assert from_file(tmp_path, recorded, "--method", "cwd").methods == from_file(tmp_path, {"method": "cwd"}).methods
    mixed = from_file(tmp_path, recorded, "--method", "cwd", "--lambda-at", 3)
    assert mixed.methods.configs["at"].at_weight == 3
    cwd = record(from_file(tmp_path, {"method": "cwd"}))
    other = from_file(tmp_path, cwd, "--student-model", "segformer", "--student-backbone", "MiT_B0")
    assert other.methods.configs["cwd"].cwd_fea_weight == 5.0


@pytest.mark.parametrize(
    "values, message",
    [
        ({"adv_weight": "abc"}, "--lambda-adv 'abc': expected a finite number"),
        ({"adv_weight": None}, "--lambda-adv None: expected a value"),
        ({"crop_size": "wide"}, "--crop-size 'wide': expected a whole number"),
        ({"crop_size": [64, None]}, "--crop-size [64, None]: expected numbers"),
        ({f"unknown_{i}": 1 for i in range(9)}, "unknown_4 and 4 more: not a setting"),
    ],
)
def test_values_of_a_file_that_cannot_be_used_are_one_message(tmp_path, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        from_file(tmp_path, {"method": "kd"} | values)


def test_texts_of_a_file_are_read_as_flags_are(tmp_path):
    config = from_file(tmp_path, {"method": "kd", "lr": "1e-3", "teacher_dtype": "auto", "crop_size": "64"})
    assert config.optim.lr == 1e-3 and config.optim.crop_size == (64, 64) and config.networks.teacher_dtype is None

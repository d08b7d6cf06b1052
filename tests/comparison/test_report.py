"""The report's figures, by hand and against results.json, and the text of the page."""

import csv
import json
import re
from html import unescape

import pytest

from comparison.charts import averaged, bar_chart, log_ticks, ticks
from comparison.jobs import make_jobs
from comparison.records import read_run
from comparison.spec import make_spec
from comparison.summary import format_table, percent, points, summarise
from tests.comparison.conftest import change_metrics, fail, leave_runs, report

METHODS = ["baseline", "cirkdv2"]


def figures(summary: dict, name: str) -> dict:
    return next(method for method in summary["methods"] if method["name"] == name)


def test_final_figures_by_hand(summary):
    ours = figures(summary, "cirkdv2")
    assert ours["final"]["mean"] == pytest.approx(0.42) and ours["final"]["std"] == pytest.approx(0.0002**0.5)
    difference = ours["final"]["difference"]  # 0.10 and 0.08
    assert (difference["n"], difference["mean"]) == (2, pytest.approx(0.09))
    assert difference["std"] == pytest.approx(0.0002**0.5)
    assert figures(summary, "baseline")["final"]["difference"] is None
    assert ours["peak_memory_mib"]["mean"] == 120.0 and ours["iterations"]["mean"] == 20
    assert ours["seconds_per_iteration"]["mean"] == pytest.approx((0.19 + 0.26) / 2)
    assert [gain["mean"] for gain in ours["class_gain"]] == [pytest.approx(0.09), pytest.approx(0.09), None]


def test_equal_iterations_and_time_of_an_iteration_budget(summary):
    ours = figures(summary, "cirkdv2")
    assert ours["equal_iterations"]["per_seed"] == {"0": 0.40, "1": 0.42}
    # The baseline took 2.0 s (seed 0) and 2.4 s (seed 1); ours had validated at 1.9 s, and not before 2.6 s.
    assert ours["equal_time"]["per_seed"] == {"0": 0.25}
    assert ours["equal_time"]["difference"]["per_seed"] == {"0": pytest.approx(0.25 - 0.30)}
    assert figures(summary, "baseline")["equal_time"]["per_seed"] == {"0": 0.30, "1": 0.36}
    assert "trained for 20 iterations" in summary["rules"]["equal_iterations"]
    assert "smallest training time" in summary["rules"]["equal_time"]


def test_equal_iterations_and_time_of_a_time_budget(values):
    def longer(lines):
        more = [line | {"iteration": 35, "train_seconds": 4.01} for line in lines[-2:]]
        return [*lines, more[0], more[1] | {"validation": {"miou": 0.5}}]

    spec = make_spec(values | {"iterations": None, "seconds": 4})
    jobs = leave_runs(spec)
    for job in jobs:
        if job.method.method == "baseline":  # went further in the time
            change_metrics(job, longer)
    summary, _ = report(spec, jobs)
    base = figures(summary, "baseline")
    assert base["equal_time"]["per_seed"] == {0: 0.5, 1: 0.5}
    assert base["equal_iterations"]["per_seed"] == {0: 0.30, 1: 0.36}  # at 20, where ours ended
    assert figures(summary, "cirkdv2")["equal_time"]["per_seed"] == {0: 0.40, 1: 0.42}
    assert "stopped after 4 s" in summary["rules"]["equal_time"]
    assert "smallest number of iterations" in summary["rules"]["equal_iterations"]


def test_equal_seconds_by_cost_are_read_at_the_end(values, tmp_path):
    (tmp_path / "cost.json").write_text('{"seconds_per_step": {"baseline": 1, "cirkdv2": 2}}')
    spec = make_spec(values | {"equal_seconds_by_cost": tmp_path / "cost.json"})
    summary, _ = report(spec, leave_runs(spec))
    for name in ("baseline", "cirkdv2"):
        assert figures(summary, name)["equal_time"]["n"] == 2
    assert "as many iterations as fit" in summary["rules"]["equal_time"]
    assert "smallest number of iterations" in summary["rules"]["equal_iterations"]


def test_csv_has_a_line_a_run(summary, spec):
    with open(spec.output / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("baseline", "0"), ("cirkdv2", "0"), ("baseline", "1"), ("cirkdv2", "1"),
    ]  # fmt: skip
    assert [float(row["val_miou"]) for row in rows] == [0.31, 0.41, 0.35, 0.43]
    assert rows[3]["equal_time_miou"] == "" and float(rows[1]["equal_time_train_seconds"]) == 1.9


def test_printed_table(summary):
    text = format_table(summary)
    interval = "95 % interval -3.71 to +21.71"
    assert f"cirkdv2 against baseline: +9.00 ± 1.41 mIoU points (2 seeds, {interval}): may be chance" in text
    assert re.search(r"teacher +60\.00 ", text)
    worse = json.loads(json.dumps(summary))
    figures(worse, "cirkdv2")["final"]["difference"] |= {"mean": -0.01, "n": 1, "std": None, "interval": None}
    assert "-1.00 mIoU points (one seed): no gain" in format_table(worse)
    assert "None" not in text and figures(summary, "cirkdv2")["against_control"] is None  # no pixel KD to compare with


@pytest.mark.parametrize(("gain", "remark"), [(0.13, ""), (0.12, ": may be chance"), (-0.01, ": no gain")])
def test_what_a_method_adds_to_pixel_kd(values, gain, remark):
    """Paired by seed; the seeds' differences are the gain and 0.01 more or less."""
    spec = make_spec(values | {"methods": ["baseline", "plain KD=kd", "cirkdv2"], "seeds": [0, 1]})
    miou = {"baseline": (0.2, 0.2), "plain KD": (0.30, 0.35), "cirkdv2": (0.30 + gain + 0.01, 0.35 + gain - 0.01)}
    runs = []
    for name, per_seed in miou.items():
        final = {"pixel_accuracy": 0.9, "parameters": 1, "class_iou": [], "classes": [], "images": 1}
        for seed, value in enumerate(per_seed):
            run = dict.fromkeys(("iterations", "train_seconds", "seconds_per_iteration", "peak_memory_mib"))
            runs.append(run | {"method": name, "seed": seed, "status": "finished", "final": final | {"miou": value}})
            runs[-1] |= {"validation": [], "reason": None}
    summary = summarise(spec, runs, None)
    assert [figures(summary, name)["against_control"] for name in ("baseline", "plain KD")] == [None, None]
    assert figures(summary, "cirkdv2")["against_control"]["mean"] == pytest.approx(gain)
    sign = f"{100 * gain:+.2f} ± 1.41"
    interval = f"95 % interval {100 * gain - 12.706:+.2f} to {100 * gain + 12.706:+.2f}"  # t of 1 degree, times 1
    assert f"KD: {sign} mIoU points (2 seeds, {interval}){remark}\n" in format_table(summary) + "\n"


def table(page: str) -> list[list[tuple[str, str]]]:
    """Cells of the results table as (value, text), row by row."""
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    cells = [re.findall(r'<t[hd][^>]*? data-value="([^"]*)".*?>(.*?)</t[hd]>', row, re.DOTALL) for row in rows]
    return [[(unescape(value), plain(text)) for value, text in row] for row in cells]


def plain(text: str) -> str:
    return " ".join(unescape(re.sub("<.*?>", "", text)).split())


def test_numbers_of_the_page_are_those_of_results_json(summary, spec):
    rows = table((spec.output / "report.html").read_text())
    assert [row[0][0] for row in rows] == ["baseline", "cirkdv2", "teacher"]
    for row in rows[:2]:
        method = figures(summary, row[0][0])
        assert float(row[1][0]) == method["final"]["mean"] and row[1][1] == percent(method["final"])
        for column, key in ((3, "equal_iterations"), (5, "equal_time")):
            assert float(row[column][0]) == method[key]["mean"] and row[column][1] == percent(method[key])
        for column, cost in enumerate(("iterations", "train_seconds", "seconds_per_iteration", "peak_memory_mib"), 8):
            assert float(row[column][0]) == method[cost]["mean"]
    for column, key in ((2, "final"), (4, "equal_iterations"), (6, "equal_time")):
        difference = figures(summary, "cirkdv2")[key]["difference"]
        assert float(rows[1][column][0]) == difference["mean"] and rows[1][column][1] == points(difference)
        assert rows[0][column] == ("", "–")
    assert float(rows[2][1][0]) == summary["teacher"]["final"]["miou"] == 0.6


def test_page_needs_nothing_from_elsewhere(summary, spec):
    page = (spec.output / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page) and "url(" not in page and "@import" not in page
    assert 'name="viewport"' in page


def test_names_are_shown_as_text(values):
    """Names may come from anywhere: no tag or attribute of theirs becomes part of the page."""
    name = """<script>alert("x")</script>' onload='y"""
    spec = make_spec(values | {"methods": [{"name": f"{method} {name}", "method": method} for method in METHODS]})
    jobs = leave_runs(spec)
    fail(jobs[-1], f"training: {name}")
    _, page = report(spec, jobs, name)
    assert page.count("<script>") == 1 and "' onload='" not in page and page.count("&lt;script&gt;alert") > 10
    assert [row[0][0] for row in table(page)] == [f"{method} {name}" for method in METHODS] + ["teacher"]


def test_single_seed_is_noted_and_has_no_spread(values):
    spec = make_spec(values | {"seeds": [0]})
    summary, page = report(spec, leave_runs(spec))
    assert "One seed: there is no spread" in page
    assert "±" not in page[page.index("<tbody>") : page.index("</tbody>")]
    assert figures(summary, "cirkdv2")["final"]["std"] is None


def test_failed_and_unfinished_runs_are_in_the_report(spec, finished):
    fail(finished[1], "training: loss_kd is not finite")
    (finished[3].folder / "compare.json").unlink()
    summary, page = report(spec, finished)
    assert "cirkdv2, seed 0: failed: training: loss_kd is not finite" in page
    assert "cirkdv2, seed 1: not finished" in page and "2 of 4 runs are finished" in page
    assert figures(summary, "cirkdv2")["seeds"] == [] and figures(summary, "cirkdv2")["final"]["mean"] is None
    assert read_run(finished[0])["status"] == "finished"


def test_report_without_a_finished_run_or_a_baseline(values):
    spec = make_spec(values | {"methods": ["cirkdv2"], "seeds": [0]})
    spec.output.mkdir()
    _, page = report(spec, make_jobs(spec))
    assert "1 method, seed 0" in page and "0 of 1 runs are finished" in page and "There is no baseline" in page
    assert [[text for _, text in row] for row in table(page)] == [
        ["cirkdv2 0 seeds; seed 0 not finished"] + ["–"] * 12,
        ["teacher not finished: not evaluated"] + ["–"] * 12,
    ]


def test_ticks_by_hand():
    assert ticks(0.0, 60.0) == [0, 20, 40, 60]
    assert ticks(8.1, 18.7) == [10, 12.5, 15, 17.5]
    assert log_ticks(0.3, 12) == [0.5, 1, 2, 5, 10]


def test_bars_by_hand():
    chart = bar_chart([("road", 3.0, 1.0), ("sky", -4.0, None), ("car", 0.0, 0.0)])  # 8 points on 224 pixels
    assert chart["zero"] == 162 + 4 * 28
    assert [(bar["kind"], bar["start"], bar["width"]) for bar in chart["bars"]] == [
        ("gain", 274, 84), ("loss", 162, 112), ("loss", 274, 0),
    ]  # fmt: skip
    assert [bar["whisker"] for bar in chart["bars"]] == [(330, 386), None, None]
    assert chart["bars"][0]["title"] == "road: +3.00 ± 1.00"


def test_long_lines_are_averaged_in_groups():
    assert averaged([(0, 1), (2, 3), (4, 8)], limit=2) == [(1, 2), (4, 8)]
    assert averaged([(0, 1), (2, 3)], limit=2) == [(0, 1), (2, 3)]

"""The report in a browser: layout, sorting, pictures."""

import shutil

import pytest
import yaml

from comparison.spec import make_spec
from tests.comparison.conftest import change_metrics, fail, leave_runs, report

OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
PICTURES = "return [...document.querySelectorAll('.cell img')].map(i => i.complete && i.naturalWidth)"
CHARTS = "return [...document.querySelectorAll('svg')].map(s => [s.getBoundingClientRect().width, s.querySelectorAll('polyline, rect').length])"  # noqa: E501


@pytest.fixture(scope="module")
def driver():
    """Headless Chromium; the tests are skipped, with the reason, if there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (requirements.txt has it)")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if binary is None or chromedriver is None:
        pytest.skip("no chromium with chromedriver on PATH; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-gpu"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


def show(driver, spec, width: int, dark: bool = False) -> None:
    """Opens the report on an emulated screen; windows have a least width, emulated screens have none."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get((spec.output / "report.html").as_uri())


@pytest.fixture(params=[(1200, False), (360, True)], ids=["desktop, light", "phone, dark"])
def browser(request, driver, summary, spec):
    show(driver, spec, *request.param)
    yield driver
    assert driver.get_log("browser") == []  # neither errors nor warnings in the console


def test_page_shows_every_figure_without_sideways_scrolling(browser):
    widths = browser.execute_script(PICTURES)
    assert len(widths) == 2 * 5 and min(widths) > 0  # image, truth, two methods, teacher
    charts = browser.execute_script(CHARTS)
    assert len(charts) == 5 and all(width > 200 and marks > 0 for width, marks in charts)
    assert browser.execute_script(OVERFLOW) <= 0


def test_columns_sort_and_pictures_enlarge(browser):
    def order():
        return browser.execute_script(
            "return [...document.querySelectorAll('#results tbody th')].map(h => h.dataset.value)"
        )

    def click(column):
        browser.execute_script("document.querySelectorAll('#results thead button')[arguments[0]].click()", column)
        state = "return document.querySelectorAll('#results thead th')[arguments[0]].getAttribute('aria-sort')"
        return browser.execute_script(state, column)

    assert click(1) == "descending" and order() == ["teacher", "cirkdv2", "baseline"]
    assert click(1) == "ascending" and order() == ["baseline", "cirkdv2", "teacher"]
    assert click(9) == "ascending" and order() == ["baseline", "cirkdv2", "teacher"]  # little time first
    assert click(9) == "descending" and order() == ["cirkdv2", "baseline", "teacher"]  # what is missing stays last
    assert click(0) == "ascending" and order() == ["baseline", "cirkdv2", "teacher"]
    assert browser.execute_script("return document.querySelectorAll('th[aria-sort=none]').length") == 12

    assert not browser.execute_script("return document.querySelector('dialog').open")
    browser.execute_script("document.querySelectorAll('.cell button')[3].click()")
    shown = "const d = document.querySelector('dialog'); return [d.open, d.querySelector('img').naturalWidth > 0]"
    assert browser.execute_script(shown) == [True, True]
    assert browser.execute_script(OVERFLOW) <= 0


def test_tables_of_five_methods_fit_a_screen_of_1280_pixels(driver, values):
    def lengthen(lines):
        for line in lines:
            line |= {"iteration": 8000 * line["iteration"], "train_seconds": 80000 * line["train_seconds"]}
        return [line | ({"memory_mib": 131000} if "loss" in line else {}) for line in lines]

    long = "without the context module, lambda_channel_kd 100"
    methods = ["baseline", *({"name": f"{name} {long}", "method": "cirkdv2"} for name in ("cirkdv2", "b", "c", "d"))]
    spec = make_spec(values | {"methods": methods})
    jobs = leave_runs(spec)
    for job in jobs:
        change_metrics(job, lengthen)
        settings = yaml.safe_load((job.folder / "args.yaml").read_text())
        settings["arguments"]["teacher_pretrained"] = "/data/checkpoints/" + "deeplabv3_resnet101_" * 4 + ".pth"
        (job.folder / "args.yaml").write_text(yaml.safe_dump(settings))
    fail(jobs[-1], "training: loss_kd is not finite")
    report(spec, jobs)
    show(driver, spec, 1280 - 15)  # less a scroll bar
    driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    widths = driver.execute_script(
        "return [...document.querySelectorAll('table')].map(t => [t.parentElement.scrollWidth, "
        "t.parentElement.clientWidth, t.getBoundingClientRect().width])"
    )
    assert len(widths) == 3 and all(max(scrolled, table) <= visible for scrolled, visible, table in widths), widths
    assert driver.execute_script(OVERFLOW) <= 0

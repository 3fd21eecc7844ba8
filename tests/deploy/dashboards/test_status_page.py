"""The status page in a real browser, on loaded servers.

PARALLAX_SCREENSHOT=FILE keeps a picture of it under load.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any, Callable, Iterator, TypeVar

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from load import Load
from server_process import STORIES_MODEL, ServerProcess

T = TypeVar("T")

HOSTILE = '<img src=x onerror="document.title=1">\'"&</script><script>document.title=2</script>'
# Longer than a KV page, so that all but the first find it in the prefix cache.
PROMPT = "Once upon a time there was a little fox who lived at the edge of the wood. " * 6
SAMPLES = 100 if "PARALLAX_SCREENSHOT" in os.environ else 8  # one a second
# Contrast of text, WCAG 2.1 AA, of each text colour on the backgrounds it stands on.
CONTRAST_JS = """
  const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = (element, property) => {
    const [r, g, b] = getComputedStyle(element)[property].match(/[\\d.]+/g).map(Number);
    return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const card = light(document.querySelector('.card'), 'backgroundColor');
  const body = light(document.body, 'backgroundColor');
  return [['.card h3', card], ['.value', card], ['.detail', card], ['h1', body], ['#about', body],
          ['#health', body], ['a', body]].map(([selector, back]) =>
      [selector, ratio(light(document.querySelector(selector), 'color'), back)]);
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = Options()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                     "--window-size=1180,1240", "--hide-scrollbars",
                     f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    options.binary_location = "/usr/bin/chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
    try:
        driver.set_page_load_timeout(60)
        yield driver
    finally:
        driver.quit()


def show(browser: webdriver.Chrome, server: ServerProcess) -> None:
    browser.get_log("browser")  # of the page before
    browser.get(server.metrics_url.removesuffix("metrics"))
    WebDriverWait(browser, 30).until(lambda b: "up " in text(b, "#about"))


def eventually(browser: webdriver.Chrome, condition: Callable[[webdriver.Chrome], T]) -> T:
    """The condition's first true value. The page is drawn anew every second."""
    return WebDriverWait(browser, 20).until(condition)


# The page is drawn anew every second: what is read in one script is of one drawing.
def text(browser: webdriver.Chrome, selector: str) -> str:
    return browser.execute_script("return document.querySelector(arguments[0]).innerText", selector)


def number(browser: webdriver.Chrome, selector: str) -> float:
    return float(text(browser, selector).split()[0].replace(",", ""))


def rows(browser: webdriver.Chrome, table: str) -> dict[str, int]:
    """The last cell by the ones before it."""
    cells = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map("
        "(row) => [...row.cells].map((cell) => cell.innerText))", table)
    return {" ".join(before): int(last.replace(",", "")) for *before, last in cells}


def drawn_meter(browser: webdriver.Chrome, meter: str) -> dict[str, float]:
    return browser.execute_script(
        "const track = document.querySelector(`#meter-${arguments[0]} .track`);"
        "return {max: Number(track.getAttribute('aria-valuemax')),"
        "        now: Number(track.getAttribute('aria-valuenow')),"
        "        width: track.querySelector('.used').getBoundingClientRect().width};", meter)


def points(browser: webdriver.Chrome, chart: str) -> int:
    path = browser.execute_script(
        "return document.querySelector(arguments[0])?.getAttribute('d') ?? ''",
        f"#chart-{chart} path.first")
    return sum(path.count(pen) for pen in "ML")


def emulate(browser: webdriver.Chrome, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(STORIES_MODEL, "--kv-cache-pages=96", "--max-num-seqs=16") as server:
        yield server


@pytest.fixture(scope="module")
def loaded(server: ServerProcess, browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """The page after some seconds of load, which goes on."""
    with Load(server.client, threads=12, max_tokens=80, prompt=PROMPT) as load:
        load.go_on(12)
        show(browser, server)
        WebDriverWait(browser, 60 + SAMPLES).until(lambda b: points(b, "output") >= SAMPLES)
        yield browser


def test_charts_move_under_load(loaded: webdriver.Chrome) -> None:
    # Calls of one length end together: a second between two rounds of them may have no
    # answered request, no prefill and, at its end, nothing running.
    for chart in ("output", "requests", "ttft", "itl", "e2e", "batch", "prefix"):
        eventually(loaded, lambda b: number(b, f"#chart-{chart} .value") > 0)
        assert points(loaded, chart) > 1, chart
        label = loaded.find_element(By.CSS_SELECTOR, f"#chart-{chart} svg").get_attribute("aria-label")
        assert "now" in label and "highest" in label
    assert number(loaded, "#chart-batch .value") <= 16
    eventually(loaded, lambda b: all(float(rate) > 0 for rate in re.search(
        r"steps/s: ([\d.]+) prefill, ([\d.]+) decode", text(b, "#chart-batch .detail")).groups()))


def test_the_head_says_what_runs(loaded: webdriver.Chrome) -> None:
    assert text(loaded, "#model") == "parallax-stories-14m"
    assert text(loaded, "#health") == "Serving"
    assert loaded.title == "parallax-stories-14m · parallax-server"
    assert not loaded.find_element(By.ID, "offline").is_displayed()


def test_meters_and_tables_have_the_servers_numbers(loaded: webdriver.Chrome, server: ServerProcess) -> None:
    for meter, most in (("running", 16), ("pages", server.metrics()["parallax:kv_pages"])):
        drawn = eventually(
            loaded, lambda b: next((m for m in [drawn_meter(b, meter)] if m["now"] > 0), None))
        assert drawn["max"] == most
        assert drawn["now"] <= most
        assert drawn["width"] > 0
    before = server.metrics()["parallax:requests_submitted_total"]
    eventually(loaded, lambda b: rows(b, "#totals")["Requests accepted"] > before)
    assert rows(loaded, "#calls")["GenerateStream OK"] > 0


def test_only_the_server_is_asked_and_nothing_fails(loaded: webdriver.Chrome, server: ServerProcess) -> None:
    asked = loaded.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    base = server.metrics_url.removesuffix("metrics")
    assert {url for url in asked if not url.startswith("data:")} == {f"{base}status.json"}
    assert loaded.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_schemes(loaded: webdriver.Chrome, scheme: str) -> None:
    emulate(loaded, scheme)
    try:
        back = loaded.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert back == {"light": "rgb(246, 247, 249)", "dark": "rgb(18, 22, 28)"}[scheme]
        for selector, ratio in loaded.execute_script(CONTRAST_JS):
            assert ratio >= 4.5, (selector, ratio)
    finally:
        emulate(loaded, "")


def test_it_fits_a_phone(loaded: webdriver.Chrome) -> None:
    metrics: dict[str, Any] = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    loaded.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert loaded.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        loaded.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_picture_can_be_taken(loaded: webdriver.Chrome, tmp_path: Path) -> None:
    file = Path(os.environ.get("PARALLAX_SCREENSHOT", tmp_path / "status_page.png"))
    assert loaded.save_screenshot(str(file))
    assert 10_000 < file.stat().st_size <= 200_000


def test_a_server_that_ends_is_said_to_be_gone(browser: webdriver.Chrome) -> None:
    with ServerProcess("null") as server:
        show(browser, server)
        assert server.stop() == 0
        WebDriverWait(browser, 30).until(lambda b: b.find_element(By.ID, "offline").is_displayed())
    assert text(browser, "#offline").startswith("No answer from the server since ")


def test_what_the_server_is_told_is_never_markup(browser: webdriver.Chrome, tmp_path: Path) -> None:
    tokens = tmp_path / "<b>tokens"
    tokens.write_text("ann 0123456789abcdef0123456789abcdef\n")
    with ServerProcess("null", f"--model-name={HOSTILE}", f"--auth-token-file={tokens}") as server:
        tokens.write_text(f"{HOSTILE}\n")
        server.signal(signal.SIGHUP)
        show(browser, server)
        WebDriverWait(browser, 20).until(
            lambda b: b.find_elements(By.CSS_SELECTOR, "#problems li.error"))
        assert "tokens_not_reloaded" in text(browser, "#problems")
        assert "<b>tokens" in text(browser, "#problems")
        assert text(browser, "#model") == HOSTILE
        assert browser.title.startswith("<img src=x")
        assert browser.find_elements(By.CSS_SELECTOR, "img, #problems li b b") == []
        assert len(browser.find_elements(By.TAG_NAME, "script")) == 1
        assert browser.get_log("browser") == []


def test_markup_is_stopped_even_if_it_got_in(browser: webdriver.Chrome) -> None:
    """The Content-Security-Policy, without which the page would rest on one defence."""
    with ServerProcess("null") as server:
        show(browser, server)
        thrown = browser.execute_script(
            "try { document.getElementById('model').innerHTML = '<b>x</b>'; return ''; }"
            " catch (error) { return error.name; }")
        assert thrown == "TypeError"
        browser.execute_script(
            "const s = document.createElement('img'); s.src = '/x.png'; document.body.append(s);")
        WebDriverWait(browser, 20).until(lambda b: any(
            "Content Security Policy" in line["message"] and "x.png" in line["message"]
            for line in b.get_log("browser")))

"""Take the pictures of the dashboard in this folder: ``python docs/dashboard_screenshots.py RUNS_DIR``; needs Chromium.

RUNS_DIR holds the experiment ``main``, as after ``make efficiency`` in ``runs/efficiency``.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
VIEW = "runs=main&group=lexicon|dpo|threshold&method=sea&baseline=passive&show=passive&show=sea&show=uniform-imagined"


@contextmanager
def dashboard(runs: str) -> Iterator[str]:
    """A dashboard in a process of its own; the address of its page."""
    command = [sys.executable, "-m", "sea_agent", "dashboard", runs, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            (url,) = re.findall(r"^Ready: (\S+)", process.stdout.readline())
            yield url
        finally:
            process.terminate()


def photograph(browser: Browser, url: str, name: str, width: int, height: int, scale: int) -> None:
    """A picture of the top of the page."""
    context = browser.new_context(viewport={"width": width, "height": height}, device_scale_factor=scale)
    page = context.new_page()
    page.goto(f"{url}#{VIEW}")
    page.locator("body[data-loaded]").wait_for()
    page.get_by_text("live", exact=True).wait_for()
    page.screenshot(path=HERE / name, animations="disabled")
    context.close()


def main() -> None:
    """Write the pictures."""
    with dashboard(sys.argv[1]) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        photograph(browser, url, "dashboard.png", 1280, 1240, 1)
        photograph(browser, url, "dashboard-phone.png", 390, 1100, 2)
        browser.close()


if __name__ == "__main__":
    main()

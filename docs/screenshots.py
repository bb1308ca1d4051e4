"""Take the pictures of the service's pages in this folder: ``python docs/screenshots.py``; needs Chromium."""

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SECONDS = 60

RUN = "kitchen"
VOTES = "baking"
INSTRUCTIONS = "Prefer the answer you would rather cook from: correct, complete, and no longer than it needs to be."
DUELS = [
    (
        "Can I use baking soda instead of baking powder in pancakes?",
        "Yes, if the batter has something sour in it. Use a third as much soda, and add a spoonful of lemon juice or "
        "swap the milk for buttermilk.",
        "Yes. Use the same amount of soda.",
    ),
    (
        "My sourdough loaf comes out dense and a little gummy in the middle. What should I change first?",
        "A dense, gummy crumb usually means that the dough was baked too early. Let the bulk rise go on until it has "
        "grown by about half and wobbles when you shake the bowl; in a cool kitchen that can take eight hours.\n\n"
        "Then bake it for longer, to 97 °C inside, and wait at least an hour before you cut it. If it is still "
        "gummy after that, feed your starter twice a day for a week.",
        "A dense, gummy crumb usually means that the dough was baked too early. Let the bulk rise go on until it has "
        "doubled; in a warm kitchen that can take three hours.\n\n"
        "Then bake it hotter, at 260 °C, and wait at least ten minutes before you cut it. If it is still gummy after "
        "that, use less water, or buy a stronger flour. Many bakers also swear by a cast-iron pot, which keeps the "
        "steam in.",
    ),
]


@contextmanager
def service() -> Iterator[httpx.Client]:
    """A service of its own in a process, and a client that may do everything."""
    key = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sea_agent", "serve", "--port", "0", "--data", folder]
        environment = os.environ | {"SEA_AGENT_ADMIN_KEY": key}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            try:
                (url,) = re.findall(r"^Ready: (.*)/label$", process.stdout.readline(), re.M)
                with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=SECONDS) as client:
                    yield client
            finally:
                process.terminate()


def prepare(admin: httpx.Client) -> str:
    """A run that is well under way; the key of an annotator."""
    run = {"name": "Kitchen assistant", "instructions": INSTRUCTIONS, "repeat_share": 0.0, "gold_share": 0.0}
    admin.put(f"/v1/runs/{RUN}", json=run).raise_for_status()
    queries = [
        {"client_key": f"q{n}", "prompt": prompt, "first": first, "second": second, "priority": -n}
        for n, (prompt, first, second) in enumerate(DUELS * 128)
    ]
    admin.post(f"/v1/runs/{RUN}/queries:batch", json={"queries": queries}).raise_for_status()
    labels = [
        {"client_key": f"q{100 + n}", "outcome": "first", "annotator": "mira" if n % 3 else "jo"} for n in range(148)
    ]
    headers = {"Idempotency-Key": "pictures"}
    admin.post(f"/v1/runs/{RUN}/labels:batch", json={"labels": labels}, headers=headers).raise_for_status()
    made = admin.post("/v1/keys", json={"name": "mira", "scopes": ["annotate"]})
    return str(made.raise_for_status().json()["key"])


def photograph(context: BrowserContext, url: str, key: str, path: Path) -> None:
    """Sign in, read the instructions, answer the short duel, and take a picture of the long one."""
    page = context.new_page()
    page.goto(f"{url}/label/{RUN}")
    page.get_by_label("Your key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Got it").click()
    ready = page.locator("[data-action=first][aria-disabled=false]")
    ready.click()
    expect(page.locator("#prompt")).to_contain_text("sourdough")
    ready.wait_for()
    page.mouse.move(0, 0)
    page.screenshot(path=path, animations="disabled")
    ready.click()  # so that whoever comes next starts with a short one again
    expect(page.locator("#prompt")).to_contain_text("baking soda")
    context.close()


def prepare_votes(admin: httpx.Client) -> None:
    """A run in which two people agree on most duels."""
    run = {"name": "Baking, second votes", "instructions": INSTRUCTIONS, "votes_needed": 2}
    admin.put(f"/v1/runs/{VOTES}", json=run).raise_for_status()
    queries = [
        {"client_key": f"b{n}", "prompt": prompt, "first": first, "second": second}
        for n, (prompt, first, second) in enumerate(DUELS * 40)
    ]
    admin.post(f"/v1/runs/{VOTES}/queries:batch", json={"queries": queries}).raise_for_status()
    labels = [
        {
            "client_key": f"b{n}",
            "outcome": "second" if (n % 9 == 0 and name == "jo") or n % 2 else "first",
            "annotator": name,
        }
        for name in ("mira", "jo")
        for n in range(64)
    ]
    headers = {"Idempotency-Key": "votes"}
    admin.post(f"/v1/runs/{VOTES}/labels:batch", json={"labels": labels}, headers=headers).raise_for_status()
    handed = {"annotators": ["mira"], "count": 4, "each": 1}
    admin.post(f"/v1/runs/{VOTES}/assignments", json=handed).raise_for_status()


def photograph_admin(browser: Browser, url: str, admin_key: str) -> None:
    """Pictures of the page of a run, and of that of people with an invitation."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    form = {"key": admin_key}
    context.request.post(f"{url}/sign-in", form=form, headers={"Origin": url}, max_redirects=0)
    page = context.new_page()
    page.goto(f"{url}/admin/runs/{VOTES}")
    page.get_by_role("row", name="jo").wait_for()
    expect(page.locator(".duels")).to_contain_text("sourdough")
    page.screenshot(path=HERE / "admin-run.png", animations="disabled")
    page.goto(f"{url}/admin/people")
    page.get_by_label("Name", exact=True).fill("sam")
    page.get_by_role("button", name="Make a link").click()
    page.get_by_role("img", name="QR code").wait_for()
    expect(page.get_by_role("heading", name="sam")).to_be_visible()
    page.mouse.move(0, 0)
    page.screenshot(path=HERE / "admin-people.png", animations="disabled")
    context.close()


def main() -> None:
    """Write the pictures."""
    with service() as admin, sync_playwright() as playwright:
        key, url = prepare(admin), str(admin.base_url).rstrip("/")
        options = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        desktop = browser.new_context(viewport={"width": 1280, "height": 800})
        photograph(desktop, url, key, HERE / "label-page.png")
        phone = browser.new_context(
            viewport={"width": 390, "height": 844}, device_scale_factor=2, is_mobile=True, has_touch=True
        )
        photograph(phone, url, key, HERE / "label-page-phone.png")
        prepare_votes(admin)
        photograph_admin(browser, url, admin.headers["Authorization"].removeprefix("Bearer "))
        browser.close()


if __name__ == "__main__":
    main()

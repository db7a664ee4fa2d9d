"""Pages in Debian's Chromium: opened from disk, watched for errors and for requests."""

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

REQUIRED = "INFLUBENCH_REQUIRE_BROWSER"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
HUNG_MS = 600_000
"""No page takes so long, however busy the machine is."""
SWITCHES = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@dataclass
class Opened:
    """A page, and what it did that it should not."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings on the console, exceptions, dialogs."""
    requests: list[str] = field(default_factory=list)
    """Everything that was asked for beside the page itself."""


@contextmanager
def chromium() -> Generator[Browser]:
    """The browser; the test is skipped, or fails where it is required, if there is none."""
    if not Path(CHROMIUM).is_file():
        reason = "no Chromium on this machine: apt-get install chromium"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and there is {reason}")
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as home, sync_playwright() as driver:
        # A profile of its own: nothing of the user's is read or written.
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=SWITCHES, env={**os.environ, "HOME": home}
        )
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, file: Path, width: int = 1200, scheme: str = "light"
) -> Generator[Opened]:
    """The page in ``file``, in a window of its own."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    context.set_default_timeout(HUNG_MS)
    found = Opened(context.new_page())
    own = file.resolve().as_uri()
    page = found.page
    page.on("console", lambda said: found.complaints.append(f"{said.type}: {said.text}"))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("dialog", lambda asked: found.complaints.append(asked.message))
    page.on("request", lambda asked: None if asked.url == own else found.requests.append(asked.url))
    page.goto(own)
    yield found
    context.close()

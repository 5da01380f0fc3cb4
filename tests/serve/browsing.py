"""A server in a thread and an installed Chromium, for the tests of the pages."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE_MS = 20_000
"""For what the page does by itself; a busy machine is slow."""
DESKTOP = {"width": 1200, "height": 800}
PHONE = {"width": 360, "height": 740}


@contextmanager
def launched() -> Iterator:
    """Chromium; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install Debian's chromium")
    playwright.expect.set_options(timeout=PATIENCE_MS)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(app) -> Iterator[str]:
    """The address of an application on a free port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@contextmanager
def tab(browser, address: str, *, expected: tuple[str, ...] = (), **context) -> Iterator:
    """A page in a browser's context of its own; what it complains of fails the test, unless it is `expected`."""
    complaints: list[str] = []
    room = browser.new_context(base_url=address, **({"viewport": DESKTOP, "locale": "en-GB"} | context))
    try:
        page = room.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda told: told.type == "error" and complaints.append(told.text))
        yield page
        assert page.evaluate("window.hit") is None, "text became script"
    finally:
        room.close()
    assert [words for words in complaints if not any(known in words for known in expected)] == []

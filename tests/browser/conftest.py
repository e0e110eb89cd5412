"""A real browser (Debian's chromium, by playwright) before pages that are really served, on loopback.

CONSILIUM_CHROMIUM: another browser than `chromium` on the PATH. CONSILIUM_SCREENSHOTS: a folder that keeps pictures.
"""

import contextlib
import os
import re
import shutil
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
LOCAL = ("data", "blob")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A browser with an empty profile."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CONSILIUM_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium is installed: make chromium")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=path,
            args=ARGUMENTS,
            viewport={"width": 1280, "height": 900},
        )
        context.set_default_timeout(20_000)
        yield context
        context.close()


@pytest.fixture
def page(browser):
    """A new page. At the end of a test no request has left the machine, and nothing has failed on the page."""
    browser.clear_cookies()
    made = browser.new_page()
    asked, failed = [], []
    made.on("request", lambda request: asked.append(request.url))
    made.on("pageerror", lambda error: failed.append(str(error)))
    made.on("console", lambda said: failed.append(said.text) if said.type == "error" else None)
    made.allowed = []
    yield made
    made.close()
    elsewhere = [url for url in asked if urlsplit(url).scheme not in LOCAL and urlsplit(url).hostname != "127.0.0.1"]
    assert asked
    assert not elsewhere
    assert [one for one in failed if not any(re.search(known, one) for known in made.allowed)] == []


@pytest.fixture
def served():
    """Serve a site until the end of a test; the address that logs in."""
    import uvicorn

    servers = []

    def serve(site) -> str:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        options = {"access_log": False, "log_config": None, "proxy_headers": False, "ws": "none", "lifespan": "off"}
        config = uvicorn.Config(site.asgi, timeout_graceful_shutdown=1, **options)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        servers.append((server, thread, listening))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        return f"http://127.0.0.1:{listening.getsockname()[1]}/login?token={site.rules.access.token}"

    yield serve
    for server, thread, listening in servers:
        server.should_exit = True
        thread.join(20)
        with contextlib.suppress(OSError):
            listening.close()


@pytest.fixture
def picture(tmp_path):
    """Keep a picture of a page, in light and in dark. A page is never wider than the window."""
    folder = Path(os.environ.get("CONSILIUM_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def take(page, name: str) -> None:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=folder / f"{name}-{scheme}.png", full_page=True)
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 420, "height": 900})
        page.screenshot(path=folder / f"{name}-narrow.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
            f"{name} is wider than a narrow window"
        )
        page.set_viewport_size({"width": 1280, "height": 900})

    take.folder = folder
    return take

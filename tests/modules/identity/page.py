"""Serves the example page on its own origin, and opens a browser."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from os import geteuid
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from stack import HANG_SECONDS
from stack.tools import chromium
from tools.compiling import EXAMPLES

# The default of five seconds is too short for a busy machine.
expect.set_options(timeout=HANG_SECONDS * 1000)


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Do not log requests."""


@contextmanager
def serve(directory: Path) -> Iterator[str]:
    """Serve files on a free port, and yield the origin; each port is another origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=directory)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def build(directory: Path) -> Path:
    """Copy the page's script into a directory, and return the directory."""
    shutil.copy(EXAMPLES / "widget" / "widget.js", directory)
    return directory


def write(directory: Path, name: str, *, url: str, anon_key: str, key: str) -> None:
    """Write the example page with these values beside its script."""
    text = (EXAMPLES / "widget" / "index.html").read_text()
    for placeholder, value in (
        ("https://PROJECT.supabase.co", url),
        ("sb_publishable_…", anon_key),
        ("wk_pk_live_…", key),
    ):
        assert text.count(placeholder) == 1
        text = text.replace(placeholder, value)
    (directory / f"{name}.html").write_text(text)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """The distribution's browser, without a window."""
    # Chromium's sandbox refuses to run as root.
    arguments = ["--no-sandbox"] if geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        yield browser
        browser.close()

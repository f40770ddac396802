"""Debian's Chromium for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install -e '.[dev]')")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="chromium and chromedriver are not installed (apt install chromium chromium-driver)",
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def chromium(home: Path, size: tuple[int, int], prefs: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """A driver of a headless browser with its profile in `home` and a window of `size` = (width, height)."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, "--window-size={},{}".format(*size), f"--user-data-dir={home / 'profile'}"):
        options.add_argument(flag)
    if prefs is not None:
        options.add_experimental_option("prefs", dict(prefs))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


class OpenPage:
    """The open page.

    Args:
        driver: driver of the browser.
        patience: seconds to wait; only a broken page takes that long.
    """

    def __init__(self, driver: Any, patience: float) -> None:
        self.driver, self.patience = driver, patience

    def js(self, code: str, *args: Any) -> Any:
        return self.driver.execute_script(code, *args)

    def until(self, what: str, code: str) -> Any:
        """Wait until an expression is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(self.driver, self.patience, poll_frequency=0.05)
        return wait.until(lambda _: self.js(f"return {code}"), what)

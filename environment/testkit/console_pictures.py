"""The pictures of the console in the docs: `./dev run --temporary -- python -m` and the name of this module."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from pathlib import Path

from celery_postgres import migrate
from environment.sources import CHECKOUT
from environment.testkit import night
from environment.testkit.browser import Browser
from environment.testkit.console import enter, serving

_FOLDER = CHECKOUT / "docs" / "images"
_HIGHEST = 1_100


def main() -> None:
    """Fill the database of DATABASE_URL, which should be empty, and take the pictures."""
    url = os.environ["DATABASE_URL"]
    migrate(url)
    rows = night.fill(url)
    night.limit(url)
    chain = night.canvas(url)
    pictures = (
        ("console-overview", "/", 1280, "light"),
        ("console-dead", "/dead", 1280, "light"),
        ("console-limits", "/limits", 1280, "light"),
        ("console-canvas", f"/task?id={chain}", 1280, "light"),
        ("console-task", f"/task?id={rows.ids['failed']}", 390, "dark"),
    )
    program = shutil.which("chromium") or "chromium"
    with (
        serving(url, rows) as served,
        tempfile.TemporaryDirectory() as profile,
        Browser(program, Path(profile)) as browser,
    ):
        enter(browser, served, "operator")
        for name, path, width, theme in pictures:
            browser.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=700, deviceScaleFactor=1, mobile=width < 600
            )
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
            browser.open(served.address + path)
            height = min(browser.value("document.documentElement.scrollHeight"), _HIGHEST)
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            picture = browser.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
            (_FOLDER / f"{name}.png").write_bytes(base64.b64decode(picture["data"]))


if __name__ == "__main__":
    main()

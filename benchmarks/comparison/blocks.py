"""Generated parts of a page, between ``<!-- NAME -->`` and ``<!-- end NAME -->``; the rest is written by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


def fill(page: Path, blocks: Mapping[str, str], template: Path | None = None) -> None:
    """Replace the parts that the page has.

    :param template: what a page that is not there begins as.
    """
    text = (template if template and not page.exists() else page).read_text()
    for name, content in blocks.items():
        pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
        text = pattern.sub(lambda found, content=content: f"{found[1]}{content.rstrip()}\n{found[2]}", text)
    page.write_text(text)

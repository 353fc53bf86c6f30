"""Links to files of the repository that the site does not have, and GitHub's anchors.

A page such as `docs/changing.md` is read in the repository too, so its links are paths there. On the site a link to a
folder, or to a file outside `docs/`, leads to the repository's address; while the package declares no address, it is
plain text.
"""

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

_FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def anchor(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _read(app: Sphinx, docname: str, source: list[str]) -> None:
    folder = Path(app.env.doc2path(docname)).parent
    parts = _FENCE.split(source[0])
    parts[::2] = [_LINK.sub(lambda link: _led(app, docname, folder, link), part) for part in parts[::2]]
    source[0] = "".join(parts)


def _led(app: Sphinx, docname: str, folder: Path, link: re.Match[str]) -> str:
    text, path, fragment = link[1], link[2], link[3] or ""
    docs = Path(app.srcdir)
    found = Path(os.path.normpath(folder / path))
    if not found.exists():
        logger.warning("%s is not in the repository", path, location=docname, type="beyond_docs")
    if found.is_relative_to(docs) and not found.is_dir():
        return link[0]
    repository = app.config.repository.rstrip("/")
    kind = "tree" if found.is_dir() else "blob"
    return f"[{text}]({repository}/{kind}/main/{found.relative_to(docs.parent)}{fragment})" if repository else text


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("repository", "", "env")
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}

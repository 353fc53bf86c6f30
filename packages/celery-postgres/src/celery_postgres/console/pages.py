"""Pages: templates, the security headers that go with them, and the two files that they load."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import Response

from celery_postgres.console import formatting

#: No inline script or style, nothing from elsewhere, no frame. Every response has it, errors included.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
HTML = "text/html; charset=utf-8"

_FOLDER = Path(__file__).parent / "static"
#: Without the script's lines of comments, a tenth of it: with its page it is to stay below 100 kB.
FILES = {
    "console.css": ((_FOLDER / "console.css").read_bytes(), "text/css; charset=utf-8"),
    "console.js": (
        re.sub(rb"^ *//.*\n", b"", (_FOLDER / "console.js").read_bytes(), flags=re.MULTILINE),
        "text/javascript; charset=utf-8",
    ),
}
#: In the files' addresses, so that browsers keep them until they change.
VERSION = sha256(b"".join(content for content, _ in FILES.values())).hexdigest()[:12]


def environment() -> Environment:
    """The templates. What is put into one is escaped, and its invisible characters are written out."""
    made = Environment(
        loader=PackageLoader("celery_postgres.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=formatting.plain,
    )
    made.filters |= {
        "count": formatting.count,
        "duration": formatting.duration,
        "moment": formatting.moment,
        "rate": formatting.rate,
        "short": formatting.short,
        "task_name": formatting.task_name,
    }
    made.globals |= {"version": VERSION, "plural": formatting.plural}
    return made


class Pages:
    """Renders pages.

    Args:
        title: the environment's name, at the top of each page.
        home: where the link at the top leads; None for the console itself.
    """

    def __init__(self, title: str) -> None:
        self._environment = environment()
        self._environment.globals["title"] = title

    def render(self, template: str, status: int = 200, **content: Any) -> Response:
        """A page as a response."""
        return Response(self.text(template, **content), status, HEADERS, HTML)

    def text(self, template: str, **content: Any) -> str:
        """A page as text."""
        return self._environment.get_template(template).render(content)


def file(name: str) -> Response | None:
    """The style sheet or the script; None for any other name."""
    if name not in FILES:
        return None
    content, media_type = FILES[name]
    return Response(content, 200, HEADERS | {"Cache-Control": "private, max-age=31536000, immutable"}, media_type)

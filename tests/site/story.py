"""A page of the site as a story: its blocks, run from the first to the last as a reader would.

All blocks of a page run in one new folder, with one database that has the package's tables and nothing else:

- `sh` in bash, with `DATABASE_URL` set. What it starts in the background (`&`) runs until the page ends.
- `python` in one interpreter for the page.
- A block of any language that begins with a comment that is a file name (`# mine.py`) is saved under that name.

`postgresql://user:password@host/database` on a page is that database, and so are Django's words for it (`DJANGO`). The
folder has the `mine.py` of the first page. If `preludes/FOLDER-PAGE.py` exists, the page's interpreter runs it first:
for names, files and workers that the page takes for granted. A `text` block directly after another one is what that one
prints, with `…` for anything.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from psycopg2.extensions import parse_dsn

from environment.sources import CHECKOUT
from tests.runbook.pages import Block, blocks, missing, read

DOCS = CHECKOUT / "docs"
PACKAGE_README = "packages/celery-postgres/README.md"
#: Run from an empty environment, with the wheel: test_first_page.py.
FIRST = ("docs/index.md", PACKAGE_README)
#: Of the operators' pages, which tests/runbook runs.
OPERATORS = "docs/backend/"
#: What is not typed or saved: outputs, and MyST's directives.
_SHOWN = re.compile(r"|text|\{.*")
_SAVED = re.compile(r"\s*(?:#|--|//)\s*([\w./-]+\.\w+)\s*\n")
URL = "postgresql://user:password@host/database"
DJANGO = '"NAME": "database", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "5432"'
_DJANGO_NAMES = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
DEADLINE_S = 90


def site_pages() -> list[str]:
    """All pages of the site, and the package's README, without the operators' pages."""
    found = (str(path.relative_to(CHECKOUT)) for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts)
    return [*(page for page in found if not page.startswith(OPERATORS)), PACKAGE_README]


def site_blocks(page: str) -> list[Block]:
    """Every block that a reader types or saves."""
    return blocks(page, lambda language: not _SHOWN.fullmatch(language))


def saved_as(block: Block) -> str | None:
    """The name of the file that the block is, or None."""
    name = _SAVED.match(block.text)
    return name[1] if name else None


def prelude(page: str) -> Path:
    name = str(Path(page).relative_to("docs").with_suffix("")).replace("/", "-")
    return Path(__file__).parent / "preludes" / f"{name}.py"


def first_program() -> str:
    """The `mine.py` of the first page."""
    (text,) = [block.text for block in site_blocks(FIRST[0]) if saved_as(block) == "mine.py"]
    return text


class Story:
    """Runs the blocks of a page.

    Args:
        folder: new and empty.
        url: of a database with the package's tables.
        path: folders that come first in PATH.
    """

    def __init__(self, folder: Path, url: str, path: tuple[Path, ...] = (Path(sys.executable).parent,)) -> None:
        self._folder = folder
        self._url = url
        self._shells: list[subprocess.Popen[str]] = []
        self._python: subprocess.Popen[str] | None = None
        sources = (CHECKOUT / "packages/celery-postgres/src",)
        self.variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SKELDIR"))},
            "DATABASE_URL": url,
            "PYTHONPATH": os.pathsep.join(map(str, sources)),
            "PYTHONUNBUFFERED": "1",
            "PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]]),
            "COLUMNS": "200",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        python = [self._python] if self._python else []
        for process in (*self._shells, *python):
            # Each is a session of its own: what it left in the background ends with it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def tell(self, page: str) -> None:
        """All of a page, with its prelude."""
        (self._folder / "mine.py").write_text(self.here(first_program()))
        if (before := prelude(page)).exists():
            self.execute(before.read_text(), str(before))
        for block in site_blocks(page):
            if block.not_run is None:
                self.run(block)

    def here(self, text: str) -> str:
        given = parse_dsn(self._url)
        django = ", ".join(f'"{_DJANGO_NAMES[name]}": "{value}"' for name, value in given.items())
        return text.replace(URL, self._url).replace(DJANGO, django)

    def run(self, block: Block) -> None:
        """One block; its output must have the lines that the page shows."""
        name = saved_as(block)
        if name:
            kept = self._folder / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(self.here(block.text))
            return
        text = self.here(block.text)
        printed = self.type(text, block.name) if block.language == "sh" else self.execute(text, block.name)
        line = missing(block.printed, printed)
        assert line is None, f"{block.name}: {line!r} is not in\n{printed}"

    def type(self, text: str, name: str) -> str:
        """Shell commands. Returns what they print, except those in the background."""
        output = self._folder / ".output"
        with output.open("w") as out:
            shell = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=self._folder,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self._shells.append(shell)
        try:
            status = shell.wait(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} has not ended after {DEADLINE_S} s:\n{output.read_text()}") from None
        assert status == 0, f"{name}:\n{output.read_text()}"
        return output.read_text()

    def execute(self, code: str, name: str) -> str:
        """Python code, in the interpreter of the page. Returns what it prints."""
        if self._python is None:
            with (self._folder / ".errors").open("w") as errors:
                self._python = subprocess.Popen(
                    [sys.executable, str(Path(__file__).with_name("interpreter.py"))],
                    cwd=self._folder,
                    env=self.variables,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    start_new_session=True,
                )
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        self._python.stdin.write(json.dumps({"code": code, "name": name}) + "\n")
        self._python.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self._python.stdout, selectors.EVENT_READ)
            line = self._python.stdout.readline() if selector.select(DEADLINE_S) else ""
        assert line, f"{name} has not ended after {DEADLINE_S} s:\n{(self._folder / '.errors').read_text()[-3000:]}"
        answer: dict[str, Any] = json.loads(line)
        assert not answer["failed"], f"{name}:\n{answer['failed']}"
        return str(answer["printed"])


__all__ = ["FIRST", "Story", "first_program", "prelude", "read", "saved_as", "site_blocks", "site_pages"]

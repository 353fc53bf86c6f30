"""What the pages tell people to type, read from the pages themselves.

A block is a fenced ```sh block, on the site's pages (tests/site) also one of another language. Directly before it may
stand `<!-- not run: reason -->`; directly after it a ```text block: what it prints, line by line, in which `…` stands
for anything. A block that takes something away has a comment with the words `destroys rows` or `ends`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from environment.sources import CHECKOUT

ENTRY = "docs/backend/B0.5.1_Celery_Runbook.md"
README = "README.md"

_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (\S(?:(?!-->).)*?) -->\s*\Z", re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        name: page, section and its number there, for people.
        not_run: why it is not run, or None.
        printed: lines of what it prints, as the page has them.
        language: after the fence.
    """

    page: str
    section: str
    name: str
    text: str
    not_run: str | None
    printed: tuple[str, ...]
    language: str = "sh"

    @property
    def variables(self) -> set[str]:
        """The names in capitals that it leaves to whoever types it."""
        used = set(re.findall(r"\$\{?([A-Z][A-Z_]+)", self.text))
        return used - set(re.findall(r"^\s*(?:export )?([A-Z][A-Z_]+)=", self.text, re.MULTILINE))


def pages() -> list[str]:
    """The operators' pages, the entry first, and the README."""
    others = sorted(str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / ENTRY).parent.glob("*.md"))
    return [ENTRY, *(page for page in others if page != ENTRY), README]


def read(page: str) -> str:
    return (CHECKOUT / page).read_text()


def languages(page: str) -> set[str]:
    """Of all fenced blocks."""
    return {match[2] for match in _FENCE.finditer(read(page))}


def headings(page: str) -> list[str]:
    return _HEADING.findall(_FENCE.sub("", read(page)))


def blocks(page: str, wanted: Callable[[str], bool] = "sh".__eq__) -> list[Block]:
    """Those of the languages that are wanted, in the order of the page."""
    text, found, numbers = read(page), [], dict[str, int]()
    fences = list(_FENCE.finditer(text))
    for position, fence in enumerate(fences):
        if not wanted(fence[2]):
            continue
        before, after = text[: fence.start()], fences[position + 1 : position + 2]
        section = (_HEADING.findall(_FENCE.sub("", before)) or [""])[-1]
        numbers[section] = numbers.get(section, 0) + 1
        reason = _NOT_RUN.search(before)
        follows = after and after[0][2] == "text" and not text[fence.end() : after[0].start()].strip()
        found.append(
            Block(
                page,
                section,
                f"{Path(page).stem}: {section} {numbers[section]}",
                textwrap.dedent(fence[3]),
                reason and " ".join(reason[1].split()),
                tuple(line.strip() for line in after[0][3].splitlines() if line.strip()) if follows else (),
                fence[2],
            )
        )
    return found


def missing(printed: tuple[str, ...], output: str) -> str | None:
    """The first line that the page has and the output, in this order, has not. How wide a column is does not count."""
    lines = iter([" ".join(line.split()) for line in output.splitlines()])
    for wanted in printed:
        pattern = re.escape(" ".join(wanted.split())).replace("…", ".*")
        if not any(re.fullmatch(pattern, line) for line in lines):
            return wanted
    return None

"""The guides show parts of the examples' programs: the parts are as they stand there, and so are run by their tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from environment.sources import CHECKOUT
from tests.examples.shell import is_excerpt
from tests.runbook.pages import Block
from tests.site.story import site_blocks

PAGES = [str(path.relative_to(CHECKOUT)) for path in sorted((CHECKOUT / "docs/guides").glob("*.md"))]


def source(block: Block) -> Path | None:
    """The file that a block says it is a part of."""
    found = re.fullmatch(r"part of (examples/\S+)", block.not_run or "")
    return CHECKOUT / found[1] if found else None


PARTS = [(block, path) for page in PAGES for block in site_blocks(page) if (path := source(block)) is not None]


@pytest.mark.parametrize(("block", "path"), [pytest.param(*part, id=part[0].name) for part in PARTS])
def test_a_part_of_an_example_is_as_the_example_has_it(block: Block, path: Path) -> None:
    assert is_excerpt(block.text, path.read_text()), f"{path.name} has changed, or the guide"


def test_guides_show_parts() -> None:
    assert len(PARTS) > 5


def test_the_coroutine_to_copy_is_the_same_in_both_examples() -> None:
    first, second = (CHECKOUT / "examples" / name / "awaiting.py" for name in ("asyncio", "fastapi"))
    assert first.read_text() == second.read_text()


def test_what_an_excerpt_is() -> None:
    text = "a\n    b\n        c\nd\n"
    assert is_excerpt("b\n    c\n", text)
    assert is_excerpt("a\n# …\nd\n", text)
    assert not is_excerpt("b\nc\n", text)
    assert not is_excerpt("a\nd\n", text)

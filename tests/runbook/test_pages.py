"""The operators' pages as text: what leads where, and what a block must say of itself."""

from __future__ import annotations

import re

import pytest

from environment.sources import CHECKOUT
from tests.runbook.incident import NAMES
from tests.runbook.pages import ENTRY, README, Block, blocks, headings, languages, missing, pages, read

PAGES = pages()
BLOCKS = [pytest.param(block, id=block.name) for page in PAGES for block in blocks(page)]
#: What takes something away.
TAKES = r"(purge|--delete|requeue --all)[^\n]*--yes|\bDELETE\b|\bDROP\b|discard|pg_terminate_backend|kill -9|downgrade"
SAYS = r"#.*(destroys rows|\bends\b)"


def anchor(heading: str) -> str:
    """GitHub's."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [page for page in PAGES if page != README])
def test_links_lead_somewhere(page: str) -> None:
    folder = (CHECKOUT / page).parent
    for target, fragment in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", read(page)):
        found = (folder / target) if target else CHECKOUT / page
        assert found.exists(), target
        if fragment:
            name = str(found.resolve().relative_to(CHECKOUT))
            assert fragment in map(anchor, headings(name)), f"{name}#{fragment}"


def test_the_entry_page_leads_to_all_its_sections_and_all_other_pages() -> None:
    contents = read(ENTRY).partition("\n## ")[0]
    linked = set(re.findall(r"\]\(([^)]+)\)", contents))
    own = {f"#{anchor(heading)}" for heading in re.findall(r"^## (.+)$", read(ENTRY), re.MULTILINE)}
    others = {page.rpartition("/")[2] for page in PAGES if page not in (ENTRY, README)}
    assert own | others <= linked


@pytest.mark.parametrize("page", PAGES)
def test_what_is_typed_is_in_blocks_that_are_run(page: str) -> None:
    assert languages(page) <= {"sh", "text", "python"}
    marks = re.findall(r"<!-- not run\b.*?-->", read(page), re.DOTALL)
    assert len(marks) == sum(block.not_run is not None for block in blocks(page)), "a mark that marks nothing"


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_that_takes_something_away_says_so(block: Block) -> None:
    text = block.text
    typed = re.sub(r"\s#.*", "", text)
    assert bool(re.search(SAYS, text)) >= bool(re.search(TAKES, typed))


def test_no_key_is_an_argument() -> None:
    """Every account of a machine can read the arguments of all processes."""
    typed = "\n".join(read(page) for page in PAGES)
    assert re.findall(r"(?:-H|--header)[ =]?[\"'][^\"'@]*(?:Authorization|\$key)", typed) == []


def test_names_are_explained_and_given() -> None:
    explained = set(re.findall(r"^\| `([A-Z_]+)` \|", read(ENTRY), re.MULTILINE))
    used = {name for block in BLOCKS for name in block.values[0].variables}  # type: ignore[attr-defined]
    assert used == explained
    assert explained == set(NAMES)


def test_what_a_page_says_is_printed_is_looked_for() -> None:
    assert missing(("a … c", "d"), "x\na  b   c\nd\n") is None
    assert missing(("d", "a … c"), "a b c\nd\n") == "a … c"
    assert missing(("a.c",), "abc") == "a.c"

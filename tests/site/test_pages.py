"""Every block of the site's pages is run by a test, or a comment before it gives the reason why not."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

import celery_postgres
from celery_postgres import beat, django, dsn, errors, operations
from celery_postgres.database.options import Options, ResultOptions
from environment.sources import CHECKOUT
from tests.runbook.pages import read
from tests.site.story import prelude, saved_as, site_blocks, site_pages

PAGES = site_pages()
PUBLIC = (celery_postgres, operations, errors, beat, dsn, django)


@pytest.mark.parametrize("page", PAGES)
def test_a_block_is_run_or_says_why_not(page: str) -> None:
    found = site_blocks(page)
    lost = [
        f"{block.name} is {block.language}"
        for block in found
        if not (block.not_run or block.language in ("sh", "python") or saved_as(block))
    ]
    assert lost == [], (
        "run: sh, python, or a file, whose first line is a comment with its name; else `<!-- not run: … -->`"
    )
    marks = re.findall(r"(?<!`)<!-- not run\b.*?-->", read(page), re.DOTALL)
    assert len(marks) == sum(block.not_run is not None for block in found), "a mark that marks nothing"


@pytest.mark.parametrize("page", PAGES)
def test_code_stands_in_plain_fences(page: str) -> None:
    """In another form the harness would not see it. `literalinclude` is for files that other tests run."""
    assert (
        re.findall(r"^ *(?:`{3,}|:{3,}) *\{(?:code|code-block|sourcecode|doctest|testcode)\}", read(page), re.M) == []
    )
    assert re.findall(r"^ *(?:~{3,}|`{4,})", read(page), re.M) == []


def test_preludes_belong_to_pages() -> None:
    wanted = {prelude(page) for page in PAGES if page.startswith("docs/")}
    assert set((Path(__file__).parent / "preludes").glob("*.py")) <= wanted


def test_the_page_of_options_has_all_of_them() -> None:
    text = read("docs/reference/options.md")
    listed = set(re.findall(r"^\| `(\w+)` \|", text, re.M))
    assert listed == {field.name for field in fields(Options)}
    assert all(f"option `{field.name}`" in text for field in fields(ResultOptions))


def test_both_pages_ask_redis_the_same() -> None:
    """tests/runbook/test_redis.py runs the operators' block."""
    pages = ("docs/moving/redis.md", "docs/backend/moving.md")
    first, second = ([block.text for block in site_blocks(page) if "redis-cli" in block.text] for page in pages)
    assert first == second
    assert len(first) == 1


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: str(module.__name__))
def test_the_page_of_the_api_has_every_public_name(module: ModuleType) -> None:
    """`automodule` with `:members:` takes all of `__all__`; of the package itself the page names each."""
    page = read("docs/reference/api.md")
    assert f".. automodule:: {module.__name__}\n" in page
    names = getattr(module, "__all__", [])
    if module is celery_postgres:
        assert [name for name in names if not re.search(rf"\b{name}\b", page)] == []
    assert [
        name for name in names if callable(getattr(module, name)) and not inspect.getdoc(getattr(module, name))
    ] == []


def test_each_decision_has_a_number_of_its_own() -> None:
    numbers = Counter(path.name[:4] for path in (CHECKOUT / "docs/decisions").glob("0*.md"))
    assert [number for number, count in numbers.items() if count > 1] == []

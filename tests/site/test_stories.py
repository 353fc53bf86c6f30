"""The blocks of the site's pages do what their pages say; `./dev test -m runbook` runs them."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

import celery_postgres
from tests.runbook.pages import read
from tests.site.story import FIRST, Story, site_blocks, site_pages

pytestmark = pytest.mark.runbook

PAGES = [
    page for page in site_pages() if page not in FIRST and any(block.not_run is None for block in site_blocks(page))
]


@pytest.fixture(scope="session")
def template(make_template: Callable[[str, Callable[[str], None]], str]) -> str:
    """A database with the package's tables and no others."""
    return make_template("site", celery_postgres.create_schema)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_tells_a_story(page: str, tmp_path: Path, fresh: Callable[..., Any], template: str) -> None:
    with fresh(template) as database, Story(tmp_path, database.url) as story:
        story.tell(page)


def rows(url: str, statement: str) -> list[Any]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def test_the_page_of_tables_has_all_of_them(fresh: Callable[..., Any], template: str) -> None:
    page = read("docs/reference/tables.md")
    with fresh(template) as database:
        tables = rows(database.url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        columns = rows(
            database.url, "SELECT column_name FROM information_schema.columns WHERE table_name = 'kombu_message'"
        )
        (query,) = [block.text for block in site_blocks("docs/reference/tables.md") if block.language == "sql"]
        assert rows(database.url, query) == []
    first, second = page.split("## Columns of kombu_message")
    assert named(first) == {name for (name,) in tables}
    assert named(second) == {name for (name,) in columns}


def named(text: str) -> set[str]:
    """The code in the first column of a page's tables."""
    return {name for cell in re.findall(r"^\|([^|]+)\|", text, re.M) for name in re.findall(r"`([^`]+)`", cell)}

"""The blocks of the site's pages do what their pages say; `./dev test -m runbook` runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import celery_postgres
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

"""The form of the prose: one docstring dialect, links that resolve, and none of a few words that hide the actor.

docs/glossary.md has one word per thing. A test cannot judge a sentence; these find what was removed once.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from environment.sources import CHECKOUT

PAGES = [
    *sorted(CHECKOUT.glob("*.md")),
    *sorted(page for page in (CHECKOUT / "docs").rglob("*.md") if "_build" not in page.parts),
    *sorted((CHECKOUT / "fuzz").glob("*.md")),
    *sorted((CHECKOUT / "packages/celery-postgres").glob("*.md")),
]
SOURCES = [
    path
    for folder in ("alembic", "backend", "benchmarks", "environment", "fuzz", "packages", "tests")
    for path in sorted((CHECKOUT / folder).rglob("*.py"))
    if "node_modules" not in path.parts
]
#: The folders whose comments and docstrings were rewritten. Add one when it is clean.
PLAIN = [
    path for path in SOURCES if path.relative_to(CHECKOUT).parts[0] in ("backend", "environment") or "src" in path.parts
]
FIELD = re.compile(
    r"^\s*:(param|type|return|returns|rtype|raises|ivar|cvar|var|yields?)\b.*:|^\s*(Parameters|Arguments):$"
)
WORDS = re.compile(r"\b(whoever|is said|whatever it is|for ever|colour|honoured|neighbours?)\b", re.IGNORECASE)
FENCE = re.compile(r"^ *```.*?^ *```$|<!--.*?-->", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]*)\)")


def of_checkout(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def docstrings(tree: ast.Module) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [text for node in ast.walk(tree) if isinstance(node, kinds) and (text := ast.get_docstring(node))]


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def foreign_fields(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if FIELD.match(line)]


def test_docstrings_have_one_dialect() -> None:
    """Args, Attributes, Returns, Yields and Raises."""
    found = {
        of_checkout(path): fields
        for path in SOURCES
        if (fields := [line for text in docstrings(ast.parse(path.read_text())) for line in foreign_fields(text)])
    }
    assert found == {}


@pytest.mark.parametrize("page", PAGES, ids=of_checkout)
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        target, _, fragment = link.partition("#")
        if "://" in target:
            continue
        found = (page.parent / target) if target else page
        if not found.exists() or (fragment and found.suffix == ".md" and fragment not in anchors(found)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=of_checkout)
def test_pages_name_the_actor(page: Path) -> None:
    assert WORDS.findall(FENCE.sub("", page.read_text())) == []


def test_code_names_the_actor() -> None:
    found = {}
    for path in PLAIN:
        prose = docstrings(ast.parse(path.read_text())) + re.findall(r"# .*", path.read_text())
        if words := [word for text in prose for word in WORDS.findall(text)]:
            found[of_checkout(path)] = words
    assert found == {}


def test_the_checks_find_what_they_look_for() -> None:
    assert foreign_fields("Do it.\n\n:param name: of it.\n:raises ValueError: never.\n") == [
        ":param name: of it.",
        ":raises ValueError: never.",
    ]
    assert foreign_fields("Do it.\n\nArgs:\n    name: of it.\n") == []
    assert WORDS.findall("Whoever waits, waits for ever.") == ["Whoever", "for ever"]
    assert "what-works" in anchors(CHECKOUT / "README.md")

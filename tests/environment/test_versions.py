"""The supported versions: one list, and the metadata and the page that repeat it."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from environment.installation import DEFAULT_MAJOR
from environment.sources import CHECKOUT

PACKAGE = CHECKOUT / "packages/celery-postgres"
VERSIONS: dict[str, Any] = tomllib.loads((PACKAGE / "versions.toml").read_text())
PROJECT: dict[str, Any] = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
PAGE = (CHECKOUT / "docs/versions.md").read_text()
SUBJECTS = ("python", "celery", "sqlalchemy", "postgresql")


def numbers(subject: str, tested: str) -> list[str]:
    return [version for version, where in VERSIONS[subject].items() if where == tested]


def rows() -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]


def test_the_page_lists_them() -> None:
    named = {row[0].partition(",")[0].lower(): row[1:] for row in rows() if len(row) == 3}
    for subject in SUBJECTS:
        assert named[subject] == [", ".join(numbers(subject, tested)) for tested in ("ci", "github")]


def test_the_page_lists_the_cells() -> None:
    words = {"ci": "`.ci/run`", "github": "*Matrix*"}
    expected = [[*(cell[part] for part in SUBJECTS), words[cell["tested"]]] for cell in VERSIONS["cells"]]
    assert [row for row in rows() if re.match(r"\d", row[0])] == expected


def test_each_version_has_a_cell_where_it_is_tested() -> None:
    for subject in SUBJECTS:
        for tested in ("ci", "github"):
            here = {cell[subject] for cell in VERSIONS["cells"] if cell["tested"] in ("ci", tested)}
            assert set(numbers(subject, tested)) <= here
        known = set(VERSIONS[subject])
        assert {cell[subject] for cell in VERSIONS["cells"]} <= known


def test_the_metadata_promises_what_each_run_tests() -> None:
    found = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", one)]
    assert found == numbers("python", "ci")
    assert PROJECT["requires-python"] == f">={next(iter(VERSIONS['python']))}"
    first, last = next(iter(VERSIONS["celery"])), list(VERSIONS["celery"])[-1]
    end = f"5.{int(last.partition('.')[2]) + 1}"
    assert PROJECT["dependencies"] == [f"celery>={first},<{end}", f"kombu>={first},<{end}"]
    assert PROJECT["optional-dependencies"]["sqlalchemy"] == ["sqlalchemy>=1.4,<2.2"]


def test_the_project_itself_uses_one_of_them() -> None:
    assert VERSIONS["postgresql"][str(DEFAULT_MAJOR)] == "ci"

"""``./dev release``: what it refuses, and what its steps leave behind."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from environment import releasing
from environment.errors import UserError
from environment.releasing import release
from environment.sources import CHECKOUT
from environment.testkit.machine import unavailable


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package at version 1.2.3, whose changelog has it."""
    source = tmp_path / "src" / "celery_postgres"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text('"""Words."""\n\n__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3 - 2030-01-31\n\n- x\n\n## 1.2.2 - 2030-01-01\n")
    return tmp_path


def test_a_tag_that_agrees(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    releasing.check("v1.2.3", package)
    assert capsys.readouterr().out == "dev: v1.2.3 agrees with __version__ and the changelog\n"


@pytest.mark.parametrize("tag", ["1.2.3", "v1.2.4", "v1.2.3rc1", ""])
def test_another_tag(package: Path, tag: str) -> None:
    with pytest.raises(UserError, match=r"the tag must be v1\.2\.3$"):
        releasing.check(tag, package)


@pytest.mark.parametrize("heading", ["## Unreleased", "## 1.2.3", "## 1.2.2 - 2030-01-01", "Nothing"])
def test_a_changelog_without_the_version(package: Path, heading: str) -> None:
    (package / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    with pytest.raises(UserError, match=r"it must be 1\.2\.3 - YYYY-MM-DD$"):
        releasing.check("v1.2.3", package)


@pytest.mark.parametrize("words", [[], ["upload"], ["check"], ["build", "now"], ["check", "v1", "v2"]])
def test_unknown_words(words: list[str]) -> None:
    with pytest.raises(UserError, match="takes one of: check TAG, build, sbom, publish"):
        release(words)


def test_nobody_publishes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL", raising=False)
    with pytest.raises(UserError, match=r"only release\.yml publishes"):
        release(["publish"])


def test_a_step_before_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(releasing, "DIST", tmp_path)
    with pytest.raises(UserError, match=r"run \./dev release build"):
        release(["sbom"])


@pytest.mark.long
def test_the_components_of_an_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(releasing, "DIST", tmp_path)
    if importlib.util.find_spec("twine") is None:
        unavailable("twine is not installed: ./dev lint installs it")
    try:
        release(["build"])
        release(["sbom"])
    except UserError as error:
        unavailable(f"no package index: {error}")
    names = {path.name for path in releasing.DIST.iterdir()}
    number = releasing.version()
    assert names == {
        f"celery_postgres-{number}.tar.gz",
        f"celery_postgres-{number}-py3-none-any.whl",
        f"celery-postgres-{number}.cdx.json",
        ".gitignore",
    } - ({".gitignore"} - names)
    listed = json.loads((releasing.DIST / f"celery-postgres-{number}.cdx.json").read_text())
    components = {one["name"] for one in listed["components"]}
    assert {"celery", "kombu", "psycopg2-binary"} <= components
    assert not {"pip", "cyclonedx-bom", "sqlalchemy"} & components
    assert listed["metadata"]["component"]["name"] == "celery-postgres"


def test_the_tools_before_a_commit_are_those_of_the_lock() -> None:
    (locked,) = re.findall(r"^ruff==(\S+)", (CHECKOUT / "requirements/lint.txt").read_text(), re.MULTILINE)
    pinned = re.findall(r"ruff==([\d.]+)", (CHECKOUT / ".pre-commit-config.yaml").read_text())
    assert set(pinned) == {locked}

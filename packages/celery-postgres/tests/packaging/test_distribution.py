"""What a release uploads: an sdist and a wheel, their metadata, and what an installation brings along."""

from __future__ import annotations

import email
import importlib.util
import re
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

import celery_postgres
from environment.testkit.installing import PACKAGE, call, new_venv, would_install
from environment.testkit.machine import unavailable

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("distribution")]

PROJECT: dict[str, Any] = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
EXTRAS = {"psycopg2", "binary", "tool", "console", "sqlalchemy", "psycopg", "django"}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which ``python -m build`` has put an sdist, and the wheel that it has built of the sdist."""
    folder = tmp_path_factory.mktemp("release")
    _tool("build", "--outdir", str(folder), str(PACKAGE))
    return folder


def _tool(module: str, *words: str) -> str:
    """Run a tool of the lint lock; return what it printed."""
    name = module.replace("-", "_")
    if importlib.util.find_spec(name) is None:
        unavailable(f"{module} is not installed: ./dev lint installs it")
    done = call(sys.executable, "-m", name, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _wheel(folder: Path) -> Path:
    (found,) = folder.glob("*.whl")
    return found


def _sdist(folder: Path) -> Path:
    (found,) = folder.glob("*.tar.gz")
    return found


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def _metadata(wheel: Path) -> Message:
    contents = _contents(wheel)
    (name,) = (one for one in contents if one.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(contents[name])


def test_the_wheel_of_the_sdist_is_that_of_the_checkout(release: Path, wheel: Path) -> None:
    assert _contents(_wheel(release)) == _contents(wheel)


def test_its_checkers_accept_it(release: Path) -> None:
    assert "WARNING" not in _tool("twine", "check", "--strict", str(_wheel(release)), str(_sdist(release)))
    _tool("check_wheel_contents", "--config", str(PACKAGE / "pyproject.toml"), str(_wheel(release)))


def test_the_sdist_has_what_builds_and_explains_it(release: Path) -> None:
    with tarfile.open(_sdist(release)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "PKG-INFO"}
    assert {name for name in names if "/" not in name} == wanted | {".gitignore"}
    assert not [name for name in names if name.startswith("tests")]


def test_the_metadata(wheel: Path) -> None:
    metadata = _metadata(wheel)
    assert metadata["Name"] == "celery-postgres"
    assert metadata["Version"] == celery_postgres.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", metadata["Version"])
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS == set(PROJECT["optional-dependencies"])
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_installing_brings_celery_and_a_driver_alone(wheel: Path, tmp_path: Path) -> None:
    python = new_venv(tmp_path / "venv")
    celery, _ = would_install(python, *PROJECT["dependencies"])
    ours, warned = would_install(python, f"{wheel}[binary]")
    assert set(ours) - set(celery) == {"celery-postgres", "psycopg2-binary"}
    assert set(celery) <= set(ours)
    assert "does not provide" not in warned


def test_an_extra_that_there_is_not_is_named_by_pip(wheel: Path, tmp_path: Path) -> None:
    found, warned = would_install(new_venv(tmp_path / "venv"), f"{wheel}[redis]")
    assert "does not provide the extra 'redis'" in warned
    assert not {"redis", "psycopg2", "psycopg2-binary"} & set(found)


def test_the_changelog_has_this_version_and_every_migration() -> None:
    text = (PACKAGE / "CHANGELOG.md").read_text()
    assert re.search(rf"^## ({re.escape(celery_postgres.__version__)}|Unreleased)\b", text, re.MULTILINE)
    migrations = (PACKAGE / "src/celery_postgres/database/migrations").glob("*.up.sql")
    numbers = {path.name.partition("_")[0] for path in migrations}
    assert numbers <= set(re.findall(r"^\| (\d{4}) \|", text, re.MULTILINE))

"""What must be installed before the package can work: each refusal is one line that says what to do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import celery_postgres
from celery_postgres import prerequisites
from celery_postgres.tool import cli
from environment.testkit.installing import PACKAGE, call, other_python

SOURCE = Path(celery_postgres.__file__).parent


@pytest.mark.parametrize("name", ["__init__.py", "prerequisites.py"])
def test_an_old_python_can_read_what_refuses_it(name: str) -> None:
    ast.parse((SOURCE / name).read_text(encoding="utf-8"), feature_version=(3, 6))


def test_the_bounds_are_those_of_the_metadata() -> None:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    (first, end) = (".".join(map(str, version)) for version in prerequisites.UPSTREAM)
    assert project["dependencies"] == [f"celery>={first},<{end}", f"kombu>={first},<{end}"]
    assert project["requires-python"] == f">={'.'.join(map(str, prerequisites.PYTHON))}"


@pytest.mark.parametrize("version", ["3.10", "3.9", "3.8"])
def test_another_python_is_refused_in_one_line(version: str) -> None:
    python = other_python(version)
    done = subprocess.run(
        [python, "-c", f"import sys; sys.path.insert(0, {str(SOURCE.parent)!r}); import celery_postgres"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: celery_postgres needs Python 3.11 or newer, and this is {version}: "
        "make a virtual environment with a newer one"
    )


def test_python_3_10_is_refused_by_the_program_in_one_line() -> None:
    done = call(other_python("3.10"), "-m", "celery_postgres", cwd=SOURCE.parent)
    assert done.returncode == 1
    assert done.stderr == (
        "celery_postgres: celery_postgres needs Python 3.11 or newer, and this is 3.10: "
        "make a virtual environment with a newer one\n"
    )


@pytest.mark.parametrize("name", ["celery", "kombu"])
@pytest.mark.parametrize("version", ["5.3.6", "4.4.7", "5.8.0", "5.8.0b1", "6.0.0", "5.10.1", "unknown"])
def test_an_unsupported_release_of_celery_or_kombu(monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    monkeypatch.setattr(f"{name}.__version__", version)
    expected = (
        f"celery_postgres works with {name} 5.4 to 5.7, and {version} is installed: pip install '{name}>=5.4,<5.8'"
    )
    with pytest.raises(ImportError, match=f"^{re.escape(expected)}$") as raised:
        prerequisites.require_all()
    assert raised.value.name == name


@pytest.mark.parametrize("version", ["5.4.0", "5.5.0rc5", "5.6.3", "5.7.99"])
def test_a_supported_release(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr("celery.__version__", version)
    prerequisites.require_all()


def test_the_program_exits_with_the_line_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery.__version__", "5.3.6")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "celery_postgres", "queues"])
    with pytest.raises(SystemExit, match=r"^celery_postgres: celery_postgres works with celery 5\.4 to 5\.7"):
        prerequisites.require_all()


def _distributions(folder: Path, *names: str) -> None:
    for name in names:
        metadata = folder / f"{name.replace('-', '_')}-2.9.9.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.9.9\n")


def test_two_drivers_overwrite_each_other(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    plain_database: object,
) -> None:
    _distributions(tmp_path, "psycopg2", "psycopg2-binary")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli.main(["check"], getattr(plain_database, "url")) == 0  # noqa: B009  a fixture of the test kit
    captured = capsys.readouterr()
    assert captured.err == (
        "celery_postgres: psycopg2 and psycopg2-binary are both installed, and each overwrites files of the other: "
        "pip uninstall --yes psycopg2 psycopg2-binary, then install one of them\n"
    )
    assert captured.out.endswith("as it should be\n")


@pytest.mark.parametrize("name", ["psycopg2", "psycopg2-binary"])
def test_one_driver_is_no_trouble(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    _distributions(tmp_path, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert prerequisites.both_drivers() is None

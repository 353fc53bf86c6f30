"""Whose .env and state count when the code runs from a store: those of the checkout around the working directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from environment.checkout import locate_state, project
from environment.database import setting
from environment.sources import CHECKOUT, python_path


@pytest.fixture
def other(folder: Path) -> Path:
    """Another checkout, with a .env."""
    (folder / "environment").mkdir()
    (folder / "environment" / "cli.py").touch()
    (folder / "backend" / "app").mkdir(parents=True)
    (folder / ".env").write_text("DATABASE_URL=postgresql://me@h/of-the-project\nSERVICE_NAME=mine\n")
    return folder


def test_it_is_this_source_tree_unless_something_else_is_named() -> None:
    assert project({}) == CHECKOUT
    assert project({"SKELDIR_PROJECT": ""}) == CHECKOUT


def test_it_is_the_checkout_around_the_named_folder(other: Path) -> None:
    assert project({"SKELDIR_PROJECT": str(other / "backend" / "app")}) == other


def test_it_is_the_named_folder_where_no_checkout_is_around_it(folder: Path) -> None:
    assert project({"SKELDIR_PROJECT": str(folder)}) == folder


def test_a_dotenv_of_another_project_does_not_count(folder: Path) -> None:
    """Whoever can write to a folder in which somebody types `nix run …#migrate` would say which database is meant."""
    (folder / ".env").write_text("DATABASE_URL=postgresql://somebody@127.0.0.1:1/elses\nSERVICE_NAME=theirs\n")
    variables = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    show = [sys.executable, "-m", "environment.cli", "run", "--", "sh", "-c", "echo $DATABASE_URL $SERVICE_NAME"]
    state = {"SKELDIR_STATE_DIR": str(folder / "state")}
    variables |= {"PYTHONPATH": python_path({}), "SKELDIR_PROJECT": str(folder), **state}
    done = subprocess.run(show, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("postgresql://app_user@/skeldir_validation?host=")
    assert "theirs" not in done.stdout
    assert done.stderr == f"dev: {folder}/.env is not read: it is not in a checkout of this project\n"


def test_the_state_lies_there(other: Path) -> None:
    assert locate_state(environ={"SKELDIR_PROJECT": str(other)}) == other / ".skeldir"


def test_its_dotenv_counts(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKELDIR_PROJECT", str(other))
    monkeypatch.delenv("DATABASE_URL")
    assert setting("DATABASE_URL") == "postgresql://me@h/of-the-project"


def test_a_command_gets_its_dotenv_but_what_is_set_wins(other: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "environment.cli", "run", "--", "sh", "-c", "echo $DATABASE_URL $SERVICE_NAME"],
        env=variables
        | {
            "PYTHONPATH": python_path({}),
            "SKELDIR_PROJECT": str(other / "backend"),
            "SERVICE_NAME": "yours",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("postgresql://me@h/of-the-project yours\n", "")

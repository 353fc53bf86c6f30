"""The program as it is installed: its name, its commands, and where its state lies outside a checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from environment.checkout import account_state, locate_state, owner
from environment.commands import COMMANDS
from environment.errors import UserError
from environment.sources import CHECKOUT, python_path

pytestmark = pytest.mark.root

#: What has a meaning without the sources of this project.
INSTALLED = {
    *("worker", "up", "ping", "status", "down", "migrate", "psql", "queues", "flower", "keys", "validate"),
    *("provision", "run", "help"),
}


def skeldir(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The installed program, started outside every checkout, with a home of its own."""
    ours = ("DATABASE_", "CELERY_", "SKELDIR_STATE_DIR", "XDG_")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    variables |= {"PYTHONPATH": python_path({}), "SKELDIR_PROGRAM": "skeldir", "SKELDIR_PROJECT": str(folder)}
    variables |= {"HOME": str(folder / "home"), **more}
    return subprocess.run(
        [sys.executable, "-P", "-m", "environment.cli", *words],
        env=variables,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_has_every_command_that_needs_no_sources() -> None:
    """A new command has to be put on one side."""
    assert {name for name, command in COMMANDS.items() if not command.for_sources} == INSTALLED


def test_its_help_names_itself_and_nothing_that_it_lacks(folder: Path) -> None:
    done = skeldir(folder, "help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: skeldir COMMAND [arguments]\n")
    assert set(re.findall(r"^  ([a-z]+)", done.stdout, re.MULTILINE)) == INSTALLED
    assert "dev" not in done.stdout.replace("developer", "")
    assert "SKELDIR_PYTHON" not in done.stdout


@pytest.mark.parametrize("words", [["worker", "--help"], ["ping", "x", "--help"], ["run"]])
def test_the_help_of_a_command_names_it(folder: Path, words: list[str]) -> None:
    done = skeldir(folder, *words)
    assert f"skeldir {words[0]}" in done.stdout + done.stderr
    assert "./dev" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - INSTALLED))
def test_a_command_for_sources_says_where_it_works(folder: Path, name: str) -> None:
    done = skeldir(folder, name)
    expected = f"skeldir: {name} works on the sources of this project: ./dev {name} in a checkout\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_a_failure_is_a_line_of_its_own_name(folder: Path) -> None:
    assert skeldir(folder, "nonsense").stderr == "skeldir: no command 'nonsense'; skeldir help shows them\n"
    done = skeldir(folder, "ping", "--wait", "0", SKELDIR_STATE_DIR=str(folder / "state"))
    assert done.stderr == "skeldir: no worker of this account is ready after 0 s; skeldir worker starts one\n"


def test_it_leaves_nothing_where_it_is_started(folder: Path) -> None:
    """The state is one for the account, in its XDG folder; for root, where PostgreSQL's account reaches it."""
    start = folder / "start"
    start.mkdir()
    (start / ".env").write_text("DATABASE_URL=postgresql://nowhere.invalid/elses\n")
    done = skeldir(start, "migrate", XDG_STATE_HOME=str(folder / "xdg"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == f"skeldir: {start}/.env is not read: it is not in a checkout of this project"
    assert re.fullmatch(r"skeldir: .*skeldir_validation is at revision \d+", done.stderr.splitlines()[1])
    assert (folder / "xdg" / "skeldir" / "postgres" / "data").is_dir()
    assert [path.name for path in start.iterdir()] == [".env"]
    status = skeldir(start, "status", XDG_STATE_HOME=str(folder / "xdg"))
    assert status.stdout.splitlines()[0] == f"state       {folder / 'xdg' / 'skeldir'}"


def test_data_of_an_older_program_is_pointed_out(folder: Path) -> None:
    """It kept its state in the folder in which it was started."""
    (folder / ".skeldir" / "postgres").mkdir(parents=True)
    found = skeldir(folder, "run", "--", "true", XDG_STATE_HOME=str(folder / "xdg"))
    old = folder / ".skeldir"
    assert found.stderr == f"skeldir: the data in {old} is not used; SKELDIR_STATE_DIR={old} uses it\n"
    used = skeldir(folder, "run", "--", "true", SKELDIR_STATE_DIR=str(old))
    assert (used.returncode, used.stderr) == (0, "")


def test_the_state_of_an_account_follows_the_specification(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert account_state({}) == folder / ".local/state/skeldir"
    assert account_state({"XDG_STATE_HOME": ""}) == folder / ".local/state/skeldir"
    assert account_state({"XDG_STATE_HOME": "relative"}) == folder / ".local/state/skeldir"
    assert account_state({"XDG_STATE_HOME": "/s"}) == Path("/s/skeldir")
    outside = {"SKELDIR_PROJECT": str(folder), "XDG_STATE_HOME": str(folder / "s")}
    assert locate_state(environ=outside) == folder / "s" / "skeldir"
    assert locate_state(environ={**outside, "SKELDIR_STATE_DIR": "/elsewhere"}) == Path("/elsewhere")
    # A checkout keeps its own, also for the installed program.
    assert locate_state(CHECKOUT, outside).name != "skeldir"


def test_an_account_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UserError, match="has no home folder: set SKELDIR_STATE_DIR"):
        account_state({})
    assert account_state({"XDG_STATE_HOME": "/s"}) == Path("/s/skeldir")


def test_messages_name_whose_state_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKELDIR_PROJECT", str(folder))
    assert owner() == "this account"
    monkeypatch.delenv("SKELDIR_PROJECT")
    assert owner() == "this checkout"


def test_what_it_runs_has_the_programs_of_its_own_project(folder: Path) -> None:
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text("#!/bin/sh\necho the python of another project\n")
    (folder / "bin" / "python").chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    done = skeldir(folder, "run", "--temporary", "--", "python", PATH=path)
    assert (done.returncode, done.stdout) == (0, "the python of another project\n"), done.stderr


def test_a_checkout_within_is_not_the_installation(folder: Path) -> None:
    """``skeldir run -- ./dev …``: the variables of the outer program are not those of ./dev."""
    words = ["sh", "-c", '"$0" help | head -1; exec "$0" status | head -1', str(CHECKOUT / "dev")]
    done = skeldir(
        folder,
        *("run", "--temporary", "--", *words),
        SKELDIR_PYTHON=sys.executable,
    )
    assert done.returncode == 0, done.stderr
    usage, state = done.stdout.splitlines()
    assert usage == "Usage: ./dev COMMAND [arguments]"
    assert state == f"state       {locate_state(CHECKOUT)}"

"""`python -m celery_postgres run -- PROGRAM`: the program as if run directly, with the package installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from environment.waiting import wait_until

RUN = ["-m", "celery_postgres", "run"]
DEADLINE_S = 30
Ended = Callable[..., subprocess.CompletedProcess[str]]

REPORT = """
import json, os, sys
from kombu.transport import TRANSPORT_ALIASES
print(json.dumps({
    "name": __name__, "file": os.path.basename(__file__),
    "words": sys.argv[1:], "program": os.path.basename(sys.argv[0]),
    "path": sys.path[0], "installed": "postgresql" in TRANSPORT_ALIASES,
}))
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write(name, text)``: a program beside the test, with this Python in its first line."""

    def make(name: str, text: str, first: str = f"#!{sys.executable}") -> Path:
        folder = tmp_path / "programs"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text(f"{first}\n{text}")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def run(ended: Ended, mine: Callable[..., dict[str, str]], tmp_path: Path) -> Ended:
    def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
        variables = mine()
        variables["PATH"] = f"{tmp_path / 'programs'}:{variables.get('PATH', os.defpath)}"
        # Without -P: it would be the program's too.
        return ended([*RUN, *map(str, words)], variables | {"PYTHONSAFEPATH": ""})

    return call


# -- which program


@pytest.mark.parametrize("first", ["exporter", "--", "path", "python", "python3"])
def test_a_script(write: Callable[..., Path], run: Ended, first: str) -> None:
    path = write("exporter", REPORT)
    words: dict[str, list[str | Path]] = {
        "exporter": ["exporter"],
        "--": ["--", "exporter"],
        "path": [path],
        "python": ["--", "python", path],
        "python3": ["--", "python3", path],
    }
    done = run(*words[first], "--port=1", "--", "two words", "run")
    told = json.loads(done.stdout)
    assert told | {"path": None} == {
        "name": "__main__",
        "file": "exporter",
        "program": "exporter",
        "words": ["--port=1", "--", "two words", "run"],
        "path": None,
        "installed": True,
    }, done.stderr


@pytest.mark.parametrize("words", [["-m"], ["--", "-m"], ["--", "python", "-m"]])
def test_a_module(run: Ended, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/__init__.py").write_text("")
    (tmp_path / "reports/__main__.py").write_text(REPORT)
    told = json.loads(run(*words, "reports", "--port=1").stdout)
    assert (told["name"], told["program"], told["words"], told["installed"]) == (
        "__main__",
        "__main__.py",
        ["--port=1"],
        True,
    )


def test_a_command_of_celery(run: Ended) -> None:
    """`queues` is one, by the package's own entry point."""
    done = run("queues", "--help")
    assert done.stdout.startswith("usage: celery -A APP queues"), done.stderr


def test_a_script_finds_what_lies_beside_it(write: Callable[..., Path], ended: Ended, mine: Any) -> None:
    path = write("exporter", "import beside; print(beside.__name__)")
    (path.parent / "beside.py").write_text("")
    done = subprocess.run(
        [sys.executable, *RUN, str(path)], env=mine(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "beside\n", done.stderr


def test_a_script_with_a_long_first_line(write: Callable[..., Path], run: Ended) -> None:
    """As pip writes it where the path of Python is too long for a first line."""
    write("exporter", f"'''exec' \"{sys.executable}\" \"$0\" \"$@\"\n' '''\nprint('ran')", first="#!/bin/sh")
    assert run("exporter").stdout == "ran\n"


def test_what_it_forks_is_installed_too(write: Callable[..., Path], run: Ended) -> None:
    write(
        "exporter",
        "import os, sys\nfrom kombu.transport import TRANSPORT_ALIASES as names\nchild = os.fork()\n"
        "if child == 0:\n    os._exit(0 if 'postgresql' in names else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))",
    )
    assert run("exporter").returncode == 0


# -- its end


@pytest.mark.parametrize(
    ("text", "status", "told"),
    [
        ("pass", 0, ""),
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit('no broker')", 1, "no broker"),
        ("raise ValueError('wrong')", 1, "ValueError: wrong"),
        ("import os; os._exit(9)", 9, ""),
    ],
)
def test_the_exit_status_is_the_programs(
    write: Callable[..., Path], run: Ended, text: str, status: int, told: str
) -> None:
    write("exporter", text)
    done = run("exporter")
    assert done.returncode == status
    assert (done.stderr.splitlines() or [""])[-1] == told


@pytest.mark.parametrize(
    ("text", "number", "status"),
    [
        ("", signal.SIGTERM, -signal.SIGTERM),
        ("", signal.SIGINT, -signal.SIGINT),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))", signal.SIGTERM, 3),
    ],
)
def test_signals_reach_the_program(
    write: Callable[..., Path], start: Any, mine: Any, tmp_path: Path, text: str, number: int, status: int
) -> None:
    program = f"import pathlib, signal, sys, threading\n{text}\npathlib.Path('ready').touch()\n"
    program += "threading.Event().wait(60)"
    process = start([*RUN, str(write("exporter", program))], mine())
    wait_until((tmp_path / "ready").exists, DEADLINE_S, "the program")
    process.send_signal(number)
    assert process.wait(DEADLINE_S) == status


# -- what cannot be run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "which program? write `python -m celery_postgres run -- PROGRAM"),
        (["--"], "which program?"),
        (["--port=1"], "which program?"),
        (["no-such-exporter"], "there is no program 'no-such-exporter' in "),
        (["./no-such-exporter"], "no-such-exporter cannot be read: No such file or directory"),
        (["/"], "/ cannot be read: Is a directory"),
        (["sh"], "/sh is not a Python program"),
        (["-m"], "which module?"),
        (["-m", "no_such_exporter"], "there is no module 'no_such_exporter'"),
        (["-m", "no_such.exporter"], "there is no module 'no_such.exporter'"),
        (["--", "python"], "after python, give a script or -m MODULE"),
        (["--", "python", "-c", "pass"], "after python, give a script or -m MODULE"),
    ],
)
def test_what_is_no_program_is_one_line(run: Ended, words: list[str], told: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("celery_postgres run: ")
    assert told in line


def test_a_program_of_another_python_is_one_line(write: Callable[..., Path], run: Ended) -> None:
    write("exporter", "pass", first="#!/nowhere/bin/python3.12")
    done = run("exporter")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "belongs to another Python" in line
    assert "`/nowhere/bin/python3.12 -m celery_postgres run`" in line


@pytest.mark.parametrize("first", ["#!/usr/bin/env python3", "#!/usr/bin/env -S python3"])
def test_a_program_of_whichever_python_is_run_by_this_one(write: Callable[..., Path], run: Ended, first: str) -> None:
    write("exporter", "import sys; print(sys.executable)", first=first)
    assert run("exporter").stdout == f"{sys.executable}\n"


def test_its_help(run: Ended) -> None:
    done = run("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python -m celery_postgres run")

"""Typing the commands of a page: all of its blocks in one shell, in the page's order."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from environment.cluster import free_port
from environment.sources import CHECKOUT
from environment.testkit.machine import uninstalled
from tests.runbook.pages import Block, blocks, missing

#: For a machine that does much else; on an idle one a page takes ten seconds.
DEADLINE_S = 240
#: Printed after each block, so that its output can be told from the next one's.
_MARK = "=== end of the block"
#: The ports that pages name; each is replaced by a free one, so that two tests may run at the same time.
_PORT = re.compile(r"\b(?:5000|8000|8001|6432)\b")


def typed(page: str) -> list[Block]:
    """The blocks of a page that its tests run."""
    return [block for block in blocks(page) if block.not_run is None]


def follow(page: str, folder: Path, variables: Mapping[str, str]) -> None:
    """Type what a page says, and compare what it prints with what the page shows.

    Args:
        page: relative to the checkout.
        folder: where it is typed.
        variables: of the environment, beside this process's own.
    """
    run = typed(page)
    lacking = {name for name in ("curl", "psql", "pgbouncer") for one in run if re.search(rf"\b{name}\b", one.text)}
    for name in sorted(lacking):
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            uninstalled(name)
    ports = {port: str(free_port()) for port in sorted(set(_PORT.findall("".join(one.text for one in run))))}
    script = "\n".join(
        f"{_PORT.sub(lambda found: ports[found[0]], one.text)}\necho '{_MARK} {number}'"
        for number, one in enumerate(run)
    )
    done = type_commands(script, folder, variables)
    logs = _logs(folder)
    assert done.status == 0, f"{done.out}\n--- stderr\n{done.errors}{logs}"
    outputs = re.split(rf"^{_MARK} \d+\n", done.out, flags=re.MULTILINE)
    for block, output in zip(run, outputs, strict=False):
        line = missing(block.printed, output)
        assert line is None, f"{block.name}: {line!r} is not in\n{output}\n--- stderr\n{done.errors}{logs}"


@dataclass(frozen=True)
class Done:
    """What a shell has printed, and its exit status."""

    status: int
    out: str
    errors: str


def type_commands(script: str, folder: Path, variables: Mapping[str, str]) -> Done:
    """Everything that it leaves in the background ends with it."""
    shell = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment(folder, variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = shell.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired as late:
        _kill_group(shell.pid)
        out, errors = shell.communicate()
        raise AssertionError(f"not done after {DEADLINE_S} s\n{out}\n{errors}{_logs(folder)}") from late
    finally:
        _kill_group(shell.pid)
        shell.wait()
    return Done(shell.returncode, out, errors)


def _logs(folder: Path) -> str:
    """The ends of the logs that the commands have written."""
    return "".join(f"\n--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(folder.glob("*.log")))


def environment(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """As a person has it after `pip install -r requirements.txt`: the programs of this Python come first."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CELERY_", "DATABASE_URL", "PG", "PYTHON"))
    }
    path = [str(Path(sys.executable).parent), kept["PATH"], "/usr/sbin"]
    return {
        **kept,
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": str(CHECKOUT / "packages/celery-postgres/src"),
        "PYTHONUNBUFFERED": "1",
        "HOME": str(folder),
        "COLUMNS": "200",
        "PAGER": "",
        **variables,
    }


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def is_excerpt(block: str, text: str) -> bool:
    """Whether the lines of a block stand in a text, one below the other; a line `# …` leaves some out."""
    lines = text.splitlines()
    return all(_contains(lines, part) for part in re.split(r"^\s*# …\n?", block, flags=re.MULTILINE) if part.strip())


def _contains(lines: Sequence[str], part: str) -> bool:
    wanted = _dedented(part.strip("\n").splitlines())
    return any(_dedented(lines[start : start + len(wanted)]) == wanted for start in range(len(lines) - len(wanted) + 1))


def _dedented(lines: Sequence[str]) -> list[str]:
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return [line[margin:].rstrip() for line in lines]

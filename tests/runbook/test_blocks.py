"""Every command block of the operators' pages does what its page says; `./dev test -m runbook` runs them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from environment.sources import CHECKOUT
from environment.testkit.machine import uninstalled
from tests.http.front import Front
from tests.runbook.incident import Incident
from tests.runbook.pages import Block, blocks, missing, pages

pytestmark = pytest.mark.runbook

BLOCKS = [
    pytest.param(block, id=block.name, marks=pytest.mark.xdist_group(f"runbook-{number % 2}"))
    for number, page in enumerate(pages())
    for block in blocks(page)
    if block.not_run is None
]
DEADLINE_S = 150


@pytest.fixture(scope="module")
def incident(
    module_database: Any, start_module_worker: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Incident]:
    folder = tmp_path_factory.mktemp("runbook")
    front = Front(module_database.url, folder)
    try:
        front.start()
        incident = Incident(module_database, start_module_worker(module_database.url), front, folder)
        try:
            yield incident
        finally:
            incident.close()
    finally:
        front.close()


@pytest.fixture
def state() -> Iterator[Path]:
    """A state folder that the account which runs PostgreSQL for root can enter; pytest's own it cannot."""
    with TemporaryDirectory(prefix="skeldir-runbook-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_does_what_its_page_says(block: Block, incident: Incident, state: Path) -> None:
    lacking = [name for name in ("curl", "jq") if name in block.text and shutil.which(name) is None]
    if lacking:
        uninstalled(", ".join(lacking))
    incident.set_up()
    typed = block.text
    for there, here in incident.ports.items():
        typed = typed.replace(there, here)
    variables = {
        **os.environ,
        **{name: incident.value(name) for name in block.variables},
        "DATABASE_URL": incident.url,
        "SKELDIR_PYTHON": sys.executable,
        "SKELDIR_STATE_DIR": str(state),
        "PAGER": "",
        "COLUMNS": "200",
    }
    # A session of its own: what a block leaves in the background ends with it.
    shell = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", typed],
        cwd=CHECKOUT,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = shell.communicate(timeout=DEADLINE_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    assert shell.returncode == 0, out + errors
    assert (out + errors).strip(), "a command that finds nothing still says so"
    assert '"status": "failed"' not in out
    assert (line := missing(block.printed, out)) is None, f"{line!r} is not in\n{out}{errors}"

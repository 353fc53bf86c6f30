"""Every alert has its section, every section its alert, and what the sections tell people to type works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg2
import pytest

from app.core.dsn import PostgresDSN
from environment.checkout import CHECKOUT

RUNBOOK = "docs/backend/alerts.md"
_, *_PARTS = re.split(r"^## (.+)$", (CHECKOUT / RUNBOOK).read_text(), flags=re.MULTILINE)
SECTIONS = dict(zip(_PARTS[::2], _PARTS[1::2], strict=True))
BLOCKS = [
    pytest.param(block, id=f"{name}-{number}")
    for name, text in SECTIONS.items()
    for number, block in enumerate(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL), 1)
]


def test_every_alert_leads_to_its_section_and_every_section_is_of_an_alert(alerts: dict[str, Any]) -> None:
    # GitHub's anchor of a heading without spaces is the heading in lower case.
    urls = {name: rule["annotations"]["runbook_url"] for name, rule in alerts.items()}
    assert urls == {name: f"{RUNBOOK}#{name.lower()}" for name in SECTIONS}


def test_the_list_of_alerts_says_how_urgent_each_is(alerts: dict[str, Any]) -> None:
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \| (\w+) \|", (CHECKOUT / RUNBOOK).read_text(), re.MULTILINE)
    assert rows == [(name, name.lower(), alerts[name]["labels"]["severity"]) for name in SECTIONS]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_has_its_four_parts(name: str) -> None:
    parts = re.findall(r"^\*\*(\w+)\.\*\*\s+\S", SECTIONS[name], re.MULTILINE)
    assert parts == ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def test_what_they_lead_to_is_there() -> None:
    anchors = {name.lower() for name in SECTIONS}
    assert set(re.findall(r"\]\(#([^)]+)\)", (CHECKOUT / RUNBOOK).read_text())) <= anchors


def test_nothing_in_a_block_changes_anything() -> None:
    """What does is told in a sentence, where it is seen."""
    changing = r"--yes|\b(pause|resume|release|UPDATE|DELETE|DROP|TRUNCATE|VACUUM|pg_terminate_backend)\b"
    assert [block.id for block in BLOCKS if re.search(changing, block.values[0])] == []  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def seeded(module_database: Any, start_module_worker: Any) -> tuple[Any, Any]:
    """A database with a dead letter and three results, and its worker."""
    seeds = (
        "INSERT INTO kombu_dead_letter (message_id, failures, queue, reason, payload)"
        " VALUES (1, 5, 'celery', 'failed 5 times', '{}')",
        "INSERT INTO celery_taskmeta (id, task_id, status, date_done)"
        " SELECT nextval('task_id_sequence'), status, status, now() AT TIME ZONE 'UTC'"
        " FROM unnest(ARRAY['SUCCESS', 'FAILURE', 'STARTED']) AS status",
    )
    with closing(psycopg2.connect(PostgresDSN.parse(module_database.url).libpq())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for seed in seeds:
                cursor.execute(seed)
    return module_database, start_module_worker(module_database.url)


@pytest.fixture
def state() -> Iterator[Path]:
    """A state folder that the account which runs PostgreSQL for root can enter; pytest's own it cannot."""
    with TemporaryDirectory(prefix="skeldir-runbook-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.xdist_group("alert-runbook")
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_does_what_it_says(block: str, seeded: tuple[Any, Any], state: Path) -> None:
    missing = [name for name in ("bash", "curl", "jq") if name in f"bash {block}" and shutil.which(name) is None]
    if missing:
        pytest.skip(f"this machine has no {', '.join(missing)}")
    database, worker = seeded
    typed = block.replace("localhost:9540", worker.metrics_url.removeprefix("http://"))
    variables = {
        **os.environ,
        "DATABASE_URL": database.url,
        "SKELDIR_PYTHON": sys.executable,
        "SKELDIR_STATE_DIR": str(state),
        "PAGER": "",
    }
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", typed],
        cwd=CHECKOUT,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # A command that finds nothing still says so; and no page of the worker answers with nothing.
    assert done.stdout.strip()
    assert '"status": "failed"' not in done.stdout

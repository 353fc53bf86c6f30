"""What PostgreSQL itself allows: pgbench, a client in C, on the broker's own table."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import parse_dsn

from benchmarks.cells import Cell
from benchmarks.run import Run
from benchmarks.systems.databases import CLAIM, COLUMNS, ENVELOPE, PgBench
from environment.temporary import TemporaryCluster

CLIENTS = (1, 4)
#: The system whose server is measured.
_SERVER = "psycopg2-one"
#: Rows per client and second of claiming, several times what a commit for each allows.
_ROWS_PER_S = 20_000

_INSERT = f"""
    INSERT INTO kombu_message ({COLUMNS})
    VALUES (nextval('message_id_sequence'), true, 1, 1, gen_random_uuid()::text, repeat('e', {ENVELOPE}));"""


def variants(run: Run) -> list[str]:
    """Connections at a time."""
    system = run.systems.get(_SERVER)
    return [f"pgbench {clients}" for clients in CLIENTS] if system and program(system.cluster) else []


def measure(run: Run, variant: str) -> dict[str, Any]:
    """Durable transactions a second, each of one row: those that insert it, and those that take it by deleting it."""
    cluster, seconds, clients = run.systems[_SERVER].cluster, int(run.pick(2, 3)), int(variant.split()[1])
    assert cluster is not None
    found = program(cluster)
    with PgBench(cluster).fresh() as broker:
        inserted = pgbench(found, broker.url, _INSERT, seconds, clients)
        with closing(psycopg2.connect(broker.url)) as connection, connection.cursor() as cursor:
            cursor.execute("TRUNCATE kombu_message")
            connection.commit()
        broker.fill(1, seconds * clients * _ROWS_PER_S)
        claimed = pgbench(found, broker.url, CLAIM.format(count=1) + ";", seconds, clients)
        if not broker.waiting():
            raise RuntimeError(f"{_ROWS_PER_S} rows for each second of a client were not enough")
    return {"insert_tps": inserted, "claim_delete_tps": claimed}


def program(cluster: TemporaryCluster | None) -> Path | None:
    """Return the pgbench of the server's installation, else that on PATH."""
    beside = cluster.installation.program("pgbench") if cluster else None
    found = shutil.which("pgbench")
    return beside if beside and beside.exists() else Path(found) if found else None


def pgbench(found: Path | None, url: str, statement: str, seconds: int, clients: int) -> float:
    """Return the transactions a second of a statement that so many clients repeat."""
    server = parse_dsn(url)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(statement)
        script.flush()
        done = subprocess.run(
            [
                *(str(found), "--no-vacuum", "--protocol=prepared", f"--time={seconds}", f"--client={clients}"),
                *(f"--file={script.name}", f"--host={server['host']}", f"--port={server['port']}"),
                *(f"--username={server['user']}", server["dbname"]),
            ],
            env={**os.environ, "PGPASSWORD": server["password"]},
            capture_output=True,
            text=True,
            check=False,
        )
    rate = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
    if done.returncode or rate is None:
        raise RuntimeError(f"pgbench ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    return float(rate[1])


CELL = Cell("ceiling", variants, measure, per_system=False)

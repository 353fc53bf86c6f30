"""What PostgreSQL itself allows: pgbench, a client in C, on the broker's own table."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

import psycopg2
from psycopg2.extensions import parse_dsn

from benchmarks.systems.ceilings import CLAIM, COLUMNS, ENVELOPE, Psycopg2One
from environment.temporary import TemporaryCluster

#: Rows for each second of claiming, several times what a commit for each allows; more are wanted for many clients.
_ROWS_PER_S = 20_000

_INSERT = f"""
    INSERT INTO kombu_message ({COLUMNS})
    VALUES (nextval('message_id_sequence'), true, 1, 1, gen_random_uuid()::text, repeat('e', {ENVELOPE}));"""


class _Ground(Psycopg2One):
    # A database of its own, beside that of the ceiling.
    name = "pgbench"


def program(cluster: TemporaryCluster) -> Path | None:
    """The pgbench beside the server's programs, else that on PATH; None where there is neither."""
    beside = cluster.installation.program("pgbench")
    found = shutil.which("pgbench")
    return beside if beside.exists() else Path(found) if found else None


def pgbench(cluster: TemporaryCluster, seconds: int, clients: int = 1) -> dict[str, float]:
    """Transactions in a second that insert a row each, and that each take one by deleting it.

    :param seconds: of each of the two runs.
    :param clients: connections at a time, each waiting for its own commits.
    :returns: ``insert_tps`` and ``claim_delete_tps``; durable commits over TCP, statements prepared.
    :raises RuntimeError: when there is no pgbench, when it fails, or when the rows were used up.
    """
    found = program(cluster)
    if found is None:
        raise RuntimeError("there is no pgbench, neither beside the server's programs nor on PATH")
    with _Ground(cluster).fresh() as ground:
        inserted = _run(found, ground.libpq, _INSERT, seconds, clients)
        with closing(psycopg2.connect(ground.libpq)) as connection, connection.cursor() as cursor:
            cursor.execute("TRUNCATE kombu_message")
            connection.commit()
        ground.fill(1, seconds * clients * _ROWS_PER_S)
        claimed = _run(found, ground.libpq, CLAIM.format(count=1) + ";", seconds, clients)
        if not ground.waiting():
            raise RuntimeError(f"{_ROWS_PER_S} rows for each second of a client were not enough")
    return {"insert_tps": inserted, "claim_delete_tps": claimed}


def _run(found: Path, libpq: str, statement: str, seconds: int, clients: int) -> float:
    server = parse_dsn(libpq)
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

"""The commands of the guide to security, typed by an administrator; then each login does its work, and no more."""

from __future__ import annotations

import re
from pathlib import Path

from environment.temporary import TemporaryCluster
from environment.testkit.databases import run
from tests.examples.shell import type_commands
from tests.runbook.pages import blocks

GUIDE = "docs/guides/security.md"
WORK = """
export DATABASE_URL="postgresql://sender@/mine?host=$PGHOST&port=$PGPORT"
python -c "import mine; mine.app.conf.task_ignore_result = True; mine.work.delay()" && echo "published"
python -m celery_postgres purge celery --yes || echo "the publisher may not purge"
DATABASE_URL=${DATABASE_URL/sender/watcher} python -m celery_postgres --json queues
export DATABASE_URL="postgresql://runner@/mine?host=$PGHOST&port=$PGPORT"
python -m celery_postgres dead requeue 1 --yes || echo "the worker may not requeue"
export READY_FILE=$PWD/ready
celery -A mine worker --pool solo > worker.log 2>&1 &
python - <<'PY'
import os
os.environ["DATABASE_URL"] = os.environ["DATABASE_URL"].replace("runner", "asker")
import mine
print(mine.work.delay().get(timeout=60))
PY
kill $!
wait $!
"""


def test_the_commands_make_logins_that_can_do_their_work(private_cluster: TemporaryCluster, tmp_path: Path) -> None:
    (typed,) = [block.text for block in blocks(GUIDE) if "celery_postgres roles" in block.text]
    superuser = private_cluster.url("postgres")
    run(superuser, "CREATE DATABASE mine")
    where = re.search(r"host=([^&]+)&port=(\d+)", superuser)
    assert where is not None, superuser
    (tmp_path / "mine.py").write_text((Path(__file__).parents[2] / "examples/deployment/mine.py").read_text())
    done = type_commands(typed, tmp_path, {"PGHOST": where[1], "PGPORT": where[2]})
    assert done.status == 0, done.errors
    assert "the schema is at version" in done.out
    done = type_commands(WORK, tmp_path, {"PGHOST": where[1], "PGPORT": where[2]})
    assert done.status == 0, done.out + done.errors
    assert done.out.splitlines()[-1] == "done", done.out + done.errors
    for line in ("published", "the publisher may not purge", "the worker may not requeue"):
        assert line in done.out, done.out + done.errors
    assert '"queue": "celery"' in done.out

"""Without `install()`: `broker_transport`, and what Celery finds by entry points."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from environment.testkit.tables import run, scalar
from environment.waiting import wait_until

TRANSPORT = "celery_postgres:Transport"
DEADLINE_S = 40
Ended = Callable[..., subprocess.CompletedProcess[str]]

# -- broker_transport

WHICH = """
import sys, mine
with mine.app.connection_for_write() as connection:
    {body}
    print(type(connection.transport).__module__)
"""


def test_a_worker_and_a_client_by_the_settings_alone(
    plain_database: Any, mine: Callable[..., dict[str, str]], start: Any, ended: Ended
) -> None:
    """The pool forks: what its children need from the package was loaded before."""
    variables = mine(broker_url=plain_database.url, broker_transport=TRANSPORT, result_backend=plain_database.url)
    worker = start(["-m", "celery", "-A", "mine", "worker", "-c", "1"], variables)
    done = ended(["-c", "import mine; print(mine.add.delay(2, 3).get(timeout=30))"], variables)
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr + worker.log.read_text()
    assert scalar(plain_database.url, "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'") == 1
    assert (
        "celery_postgres.results.backend"
        in ended(["-c", "import mine; print(type(mine.app.backend).__module__)"], variables).stdout
    )


@pytest.mark.parametrize(
    ("scheme", "module"),
    [
        ("postgresql", "celery_postgres.broker.transport"),
        ("postgres", "celery_postgres.broker.transport"),
        ("sqla+postgresql", "kombu.transport.sqlalchemy"),  # Kombu prefers a prefix to `broker_transport`
    ],
)
def test_which_urls_take_the_transport(
    plain_database: Any, mine: Callable[..., dict[str, str]], ended: Ended, scheme: str, module: str
) -> None:
    url = f"{scheme}://{plain_database.url.partition('://')[2]}"
    done = ended(["-c", WHICH.format(body="pass")], mine(broker_url=url, broker_transport=TRANSPORT))
    assert done.stdout == f"{module}\n", done.stderr


def test_without_the_transport_the_url_is_an_error(mine: Callable[..., dict[str, str]], ended: Ended) -> None:
    done = ended(["-c", WHICH.format(body="pass")], mine(broker_url="postgresql://h/d"))
    assert done.returncode == 1
    assert "No such transport: postgresql" in done.stderr.splitlines()[-1]


def test_a_failover_keeps_the_transport(plain_database: Any, mine: Callable[..., dict[str, str]], ended: Ended) -> None:
    body = "connection.ensure_connection(max_retries=4, interval_start=0)"
    urls = ["postgresql://u:p@127.0.0.1:1/nowhere", plain_database.url]
    done = ended(["-c", WHICH.format(body=body)], mine(broker_url=urls, broker_transport=TRANSPORT))
    assert done.stdout == "celery_postgres.broker.transport\n", done.stderr


# -- entry points


@pytest.mark.parametrize(
    ("backend", "module"),
    [
        ("postgresql", "celery_postgres.results.backend"),
        ("postgres", "celery_postgres.results.backend"),
        ("db+postgresql", "celery.backends.database"),  # Celery's own until install()
    ],
)
def test_result_backends(
    plain_database: Any, mine: Callable[..., dict[str, str]], ended: Ended, backend: str, module: str
) -> None:
    url = f"{backend}://{plain_database.url.partition('://')[2]}"
    done = ended(["-c", "import mine; print(type(mine.app.backend).__module__)"], mine(result_backend=url))
    assert done.stdout == f"{module}\n", done.stderr


def test_a_worker_with_another_broker_keeps_results_here(
    plain_database: Any, mine: Callable[..., dict[str, str]], start: Any, ended: Ended, tmp_path: Any
) -> None:
    """Only the result backend is ours, by its entry point, and the pool forks."""
    folder = {f"data_folder_{way}": str(tmp_path / "spool") for way in ("in", "out")}
    (tmp_path / "spool").mkdir()
    variables = mine(broker_url="filesystem://", broker_transport_options=folder, result_backend=plain_database.url)
    worker = start(["-m", "celery", "-A", "mine", "worker", "-c", "1"], variables)
    done = ended(["-c", "import mine; print(mine.add.delay(2, 3).get(timeout=30))"], variables)
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr + worker.log.read_text()


def test_beat_by_its_short_name(plain_database: Any, mine: Callable[..., dict[str, str]], start: Any) -> None:
    variables = mine(
        broker_url=plain_database.url,
        broker_transport=TRANSPORT,
        beat_schedule={"often": {"task": "mine.add", "schedule": 0.2, "args": (1, 2)}},
    )
    beat = start(["-m", "celery", "-A", "mine", "beat", "-S", "postgres"], variables)
    wait_until(
        lambda: scalar(plain_database.url, "SELECT coalesce(sum(runs), 0) FROM celery_beat_entry") >= 2,
        DEADLINE_S,
        f"two runs: {beat.log.read_text()}",
    )


# -- celery queues


@pytest.fixture
def queues(plain_database: Any, mine: Callable[..., dict[str, str]], ended: Ended) -> Ended:
    variables = mine(broker_url=f"sqla+{plain_database.url}")

    def call(*words: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        return ended(["-m", "celery", "-A", "mine", "queues", *words], mine(**settings) if settings else variables)

    return call


def test_the_queue_tool_is_a_command_of_celery(queues: Ended, plain_database: Any) -> None:
    run(plain_database.url, "INSERT INTO kombu_queue (name) VALUES ('jobs')")
    assert json.loads(queues("--json").stdout)[0]["queue"] == "jobs"
    assert json.loads(queues("--json", "queues").stdout)[0]["queue"] == "jobs"
    assert "jobs is paused" in queues("pause", "jobs").stdout
    assert json.loads(queues("--json", "purge", "jobs", "--yes").stdout)["dry_run"] is False
    missing = queues("pause", "none")
    assert (missing.returncode, missing.stderr) == (1, "celery_postgres: there is no queue 'none'\n")
    assert queues("nonsense").returncode == 2
    assert json.loads(queues("--json", "check").stdout)["problems"] == []


def test_its_help_names_its_commands_and_no_variable(queues: Ended) -> None:
    done = queues("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: celery -A APP queues [-h] [--json] COMMAND ...\n")
    assert "that of the app's broker" in done.stdout
    assert "CELERY_BROKER_URL" not in done.stdout
    assert "--older-than AGE" in queues("dead", "purge", "--help").stdout


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://:hunter2@h/0", "and this begins with redis://"),
        ("postgersql://u:hunter2@h/d", "and this begins with postgersql://"),
        ("postgresql://u:hunter2@h/d?nonsense=1", "cannot use the parameter nonsense"),
        (["postgresql://u:hunter2@127.0.0.1:1/d", "redis://h"], "refused"),
        (None, "this app names no broker: give an app with -A"),
    ],
)
def test_another_broker_is_one_line(queues: Ended, url: Any, told: str) -> None:
    done = queues(broker_url=url)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("celery_postgres: ")
    assert told in line
    assert "hunter2" not in done.stderr + done.stdout


# -- python -m celery_postgres


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"PGPORT": "", "PGHOST": ""}, "set CELERY_BROKER_URL to the broker's URL"),
        ({"DATABASE_URL": "postgersql://u:hunter2@h/d"}, "DATABASE_URL is not a PostgreSQL URL: that begins with"),
        ({"CELERY_BROKER_URL": "hunter2@h/d"}, "CELERY_BROKER_URL is not a PostgreSQL URL: that begins with"),
        ({"CELERY_BROKER_URL": "postgresql://u:hunter2/@h/d"}, "the broker URL is not one that libpq understands"),
    ],
    ids=["no URL", "a typing error", "no scheme", "unreadable"],
)
@pytest.mark.parametrize("words", [["queues"], ["version"]])
def test_an_address_that_cannot_be_used_is_one_line(
    mine: Callable[..., dict[str, str]], ended: Ended, given: dict[str, str], told: str, words: list[str]
) -> None:
    variables = {name: value for name, value in mine().items() if not name.startswith("PG")}
    if "PGHOST" in given:
        given = {}
    done = ended(["-m", "celery_postgres", *words], variables | given)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert told in line
    assert "hunter2" not in line


# -- the package itself


def test_importing_the_package_does_not_load_the_transport() -> None:
    program = (
        "import sys, celery_postgres; before = 'celery_postgres.broker.transport' in sys.modules;"
        "print([before, celery_postgres.Transport.__name__, hasattr(celery_postgres, 'transport')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == [False, "Transport", False]

"""`manage.py check`: what keeps Celery from working with this project's database, each with a hint."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from celery_postgres.database import migrations
from environment.testkit.databases import run

PROGRAM = """
import json
from django.core.checks import run_checks
from django.test import override_settings

found = {}
for name, settings in json.loads('''CASES''').items():
    with override_settings(**settings):
        messages = run_checks()
    assert all(message.hint for message in messages), messages
    found[name] = [message.id.removeprefix("celery_postgres.") for message in messages]
print(json.dumps(found))
"""

#: Settings, and the checks that fail.
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "ours": ({}, []),
    "no broker": ({"CELERY_BROKER_URL": None}, ["E001"]),
    "an alias that does not exist": ({"CELERY_BROKER_URL": "django://none"}, ["E002"]),
    "results in one that does not exist": ({"CELERY_RESULT_BACKEND": "django://none"}, ["E002"]),
    "another database": ({"CELERY_BROKER_URL": "django://lite"}, ["E002"]),
    "Redis": ({"CELERY_BROKER_URL": "redis://localhost"}, ["W001"]),
    "results elsewhere": ({"CELERY_RESULT_BACKEND": "django-db"}, []),
    "no results": ({"CELERY_RESULT_BACKEND": None}, []),
    "a PostgreSQL of its own": ({"CELERY_BROKER_URL": "postgresql://elsewhere/queue"}, ["W002"]),
    "a URL that cannot be read": ({"CELERY_BROKER_URL": "postgresql://u:a/b@h/q"}, ["E002"]),
    "not a boolean": ({"CELERY_POSTGRES_ATOMIC": "no"}, ["E003"]),
    "off": ({"CELERY_POSTGRES_ATOMIC": False}, []),
    "failover": ({"CELERY_BROKER_URL": "django://default;django://default?application_name=b"}, []),
    "a router": ({"DATABASE_ROUTERS": ["things.routers.NoTables"]}, ["W003"]),
}


def test_the_settings(make_project: Callable[..., Any], empty_database: Any) -> None:
    project = make_project(default=empty_database.url)
    project.databases["lite"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    cases = json.dumps({name: settings for name, (settings, _) in CASES.items()})
    found = json.loads(project.run(PROGRAM.replace("CASES", cases)))
    assert found == {name: wanted for name, (_, wanted) in CASES.items()}


def test_a_project_that_imports_no_celery_application(project: Any) -> None:
    """The default application, which reads no settings, has no broker."""
    program = (
        "import sys, types\n"
        "sys.modules['shop.celery'] = types.SimpleNamespace(app=None)\n"
        "import django; django.setup()\n"
        "from django.core.checks import run_checks\n"
        "print(*run_checks())"
    )
    done = project.call("-c", program)
    assert "celery_postgres.E001" in done.stdout
    assert "__init__.py beside settings.py" in done.stdout


def test_the_tables(project: Any, empty_database: Any) -> None:
    def found() -> str:
        return str(project.manage("check", "--database", "default"))

    assert "celery_postgres.W004" in found()
    assert "python manage.py migrate celery_postgres --database default" in found()
    project.manage("migrate")
    assert "no issues" in found()
    run(empty_database.url, "UPDATE celery_postgres_migration SET applied_at = NULL WHERE number = 3")
    assert "migration 0003 broker_columns was cut off" in found()
    run(
        empty_database.url,
        "UPDATE celery_postgres_migration SET applied_at = now()",
        "INSERT INTO celery_postgres_migration VALUES (9000, 'of_tomorrow', 'x', now())",
    )
    assert "celery_postgres.I001" in found()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_first_migrate_complains_of_nothing(
    make_project: Callable[..., Any], empty_database: Any, driver: str
) -> None:
    told = make_project(driver, default=empty_database.url).manage("migrate")
    assert "System check" not in told
    assert migrations.check(empty_database.url).current

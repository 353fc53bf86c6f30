"""`manage.py migrate` creates the tables, in the database that Celery uses and in no other."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import celery_postgres
import celery_postgres.django
from celery_postgres.database import migrations
from environment.testkit.databases import rows, run, tables

#: Without a Celery table.
DJANGOS = {"django_content_type", "django_migrations", "things_thing"}


def recorded(url: str) -> list[str]:
    """The migrations of this app that Django has recorded."""
    return [
        name for (name,) in rows(url, "SELECT name FROM django_migrations WHERE app = 'celery_postgres' ORDER BY 1")
    ]


def test_every_number_has_its_django_migration() -> None:
    """Whoever adds a number adds `celery_postgres/django/migrations/NNNN_name.py`: a copy of the last one, with the new
    number."""
    folder = Path(celery_postgres.django.__file__).parent / "migrations"
    files = sorted(path.stem for path in folder.glob("0*.py"))
    assert files == [f"{one.number:04}_{one.name}" for one in migrations.migrations()]
    for before, path in zip([None, *files], sorted(folder.glob("0*.py")), strict=False):
        text = path.read_text()
        assert f"operations = [Number({int(path.stem[:4])})]" in text
        dependency = "" if before is None else f'("celery_postgres", "{before}")'
        assert f" = [{dependency}]" in text


def test_migrate_creates_the_tables(project: Any, empty_database: Any) -> None:
    project.manage("migrate")
    assert migrations.check(empty_database.url).current
    assert recorded(empty_database.url) == [f"{one.number:04}_{one.name}" for one in migrations.migrations()]
    assert "No migrations to apply" in project.manage("migrate")
    assert "No changes detected" in project.manage("makemigrations", "--check", "--dry-run")


def test_migrate_to_a_number_and_to_zero(project: Any, empty_database: Any) -> None:
    project.manage("migrate", "celery_postgres", "0006")
    assert migrations.version(empty_database.url) == 6
    project.manage("migrate", "celery_postgres", "0008")
    assert migrations.version(empty_database.url) == 8
    project.manage("migrate", "celery_postgres", "zero")
    assert tables(empty_database.url) == {"django_migrations"}
    assert recorded(empty_database.url) == []
    project.manage("migrate")
    assert migrations.check(empty_database.url).current


def test_a_database_that_the_package_has_migrated_is_adopted(project: Any, empty_database: Any) -> None:
    celery_postgres.create_schema(empty_database.url)
    run(empty_database.url, "INSERT INTO kombu_queue (name) VALUES ('of before')")
    project.manage("migrate")
    assert migrations.check(empty_database.url).current
    assert rows(empty_database.url, "SELECT name FROM kombu_queue") == [("of before",)]


def test_stock_consumers_are_refused_unless_they_were_allowed_before(project: Any, empty_database: Any) -> None:
    celery_postgres.migrate(empty_database.url, allow_stock=True)
    project.manage("migrate")
    told = project.manage("check", "--database", "default")
    assert "celery_postgres.I002" in told
    assert "`celery -A PROJECT queues migrate --refuse-stock`" in told
    done = project.call("-m", "celery", "-A", "shop", "queues", "migrate", "--refuse-stock")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no issues" in project.manage("check", "--database", "default")


def test_a_schema_that_is_lower_than_django_has_recorded_goes_down_only(project: Any, empty_database: Any) -> None:
    project.manage("migrate")
    migrations.migrate(empty_database.url, 3)
    project.manage("migrate", "celery_postgres", "zero")
    assert tables(empty_database.url) == DJANGOS


def test_nothing_is_lost_without_a_word(project: Any, empty_database: Any) -> None:
    """One line, and what can be done; nothing has changed."""
    project.manage("migrate")
    project.run("from things.tasks import add; add.delay(1, 2)")
    refused = project.refused("migrate", "celery_postgres", "zero")
    assert refused.startswith("CommandError: "), refused
    assert len(refused.splitlines()) == 1
    assert rows(empty_database.url, "SELECT count(*) FROM kombu_message") == [(1,)]
    assert migrations.check(empty_database.url).current
    assert recorded(empty_database.url)[-1].startswith(f"{migrations.NEWEST:04}_")
    follow_the_cure(project, refused, "zero")
    assert tables(empty_database.url) == DJANGOS


def follow_the_cure(project: Any, refused: str, target: str) -> None:
    """Type the command that a refusal names, and then the refused one again."""
    found = re.search(r"`celery -A PROJECT (queues migrate [^`]*)`", refused)
    assert found is not None, refused
    done = project.call("-m", "celery", "-A", "shop", *found[1].split())
    assert done.returncode == 0, done.stdout + done.stderr
    project.manage("migrate", "celery_postgres", target)


def test_the_whole_way_down_is_looked_at_first(project: Any, empty_database: Any) -> None:
    """A refusal half way would leave workers with the tables of an older release."""
    project.manage("migrate")
    run(empty_database.url, "INSERT INTO celery_chord (id) VALUES ('c')")
    refused = project.refused("migrate", "celery_postgres", "0003")
    assert "chords are under way in celery_chord (1): " in refused
    assert len(refused.splitlines()) == 1
    assert migrations.check(empty_database.url).current
    project.manage("migrate", "celery_postgres", "0005")
    assert migrations.version(empty_database.url) == 5
    project.manage("migrate", "celery_postgres", "zero", "--fake")
    project.manage("migrate", "celery_postgres", "0005", "--fake")
    follow_the_cure(project, project.refused("migrate", "celery_postgres", "0003"), "0003")
    assert migrations.version(empty_database.url) == 3


def test_the_plan_and_the_statements(project: Any, empty_database: Any) -> None:
    plan = project.manage("migrate", "--plan")
    assert "Migration 4 of celery_postgres (broker tables)" in plan
    statements = project.manage("sqlmigrate", "celery_postgres", "0004")
    assert "CREATE TABLE kombu_consumer" in statements
    assert "DROP TABLE" in project.manage("sqlmigrate", "celery_postgres", "0004", "--backwards")
    assert tables(empty_database.url) == set()


def test_other_databases_stay_as_they_are(make_project: Callable[..., Any], fresh: Any) -> None:
    with fresh() as default, fresh() as queue:
        project = make_project(default=default.url, queue=queue.url)
        project.settings = {"CELERY_BROKER_URL": "django://queue", "CELERY_RESULT_BACKEND": "django://queue"}
        project.manage("migrate")
        assert tables(default.url) == DJANGOS
        project.manage("migrate", "--database", "queue")
        assert migrations.check(queue.url).current


def test_a_router_is_asked(make_project: Callable[..., Any], empty_database: Any) -> None:
    project = make_project(default=empty_database.url)
    project.settings = {"DATABASE_ROUTERS": ["things.routers.NoTables"]}
    assert "celery_postgres.W003" in project.manage("migrate")
    assert tables(empty_database.url) == DJANGOS


def test_the_tables_are_made_where_the_search_path_of_options_leads(
    make_project: Callable[..., Any], empty_database: Any
) -> None:
    run(empty_database.url, "CREATE SCHEMA queue")
    project = make_project(default=empty_database.url)
    project.databases["default"]["OPTIONS"] = {"options": "-c search_path=queue"}
    project.manage("migrate")
    assert migrations.check(empty_database.url, schema="queue").current
    assert tables(empty_database.url) == set()


def test_a_broker_elsewhere_has_its_own_migrations(make_project: Callable[..., Any], fresh: Any) -> None:
    with fresh() as default, fresh() as elsewhere:
        project = make_project(default=default.url)
        project.settings = {"CELERY_BROKER_URL": elsewhere.url, "CELERY_RESULT_BACKEND": elsewhere.url}
        assert "celery_postgres.W002" in project.manage("migrate")
        assert tables(default.url) == DJANGOS


def test_the_broker_comes_into_a_database_that_django_has_migrated(
    make_project: Callable[..., Any], empty_database: Any, fresh: Any
) -> None:
    """The cure that the check names works."""
    with fresh() as elsewhere:
        project = make_project(default=empty_database.url)
        project.settings = {"CELERY_BROKER_URL": elsewhere.url, "CELERY_RESULT_BACKEND": elsewhere.url}
        project.manage("migrate")
        project.settings = {}
        found = project.manage("check", "--database", "default")
        assert "celery_postgres.W004" in found
        assert "zero --fake" in found
        project.manage("migrate", "celery_postgres", "zero", "--fake", "--database", "default")
        project.manage("migrate", "celery_postgres", "--database", "default")
        assert "no issues" in project.manage("check", "--database", "default")


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_test_database_has_the_tables_and_is_dropped(
    make_project: Callable[..., Any], empty_database: Any, driver: str
) -> None:
    """`manage.py test`, whose tests publish: the test database is gone afterwards, the other has no message."""
    project = make_project(driver, default=empty_database.url)
    project.manage("migrate")
    told = project.manage("test", "--verbosity", "2", "things.tests.TestDatabase")
    assert "OK" in told
    assert rows(empty_database.url, "SELECT count(*) FROM kombu_message") == [(0,)]
    name = f"test_{empty_database.name}"
    assert rows(empty_database.url, "SELECT count(*) FROM pg_database WHERE datname = :name", name=name) == [(0,)]

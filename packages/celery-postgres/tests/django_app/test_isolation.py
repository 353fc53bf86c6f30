"""`manage.py test` publishes into test databases alone, whatever databases the tests name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from environment.testkit.databases import rows

QUEUE = {"CELERY_BROKER_URL": "django://queue", "CELERY_RESULT_BACKEND": "django://queue"}
COUNT = "SELECT count(*) FROM kombu_message"


@pytest.fixture
def apart(make_project: Callable[..., Any], fresh: Any) -> Iterator[tuple[Any, Any]]:
    """A project whose broker has a database of its own, and that database."""
    with fresh() as default, fresh() as queue:
        project = make_project(default=default.url, queue=queue.url)
        project.settings = dict(QUEUE)
        project.manage("migrate", "--database", "queue")
        yield project, queue


def check(project: Any, count: int, *names: str) -> None:
    told = project.manage("test", *(f"things.isolated.{name}" for name in names))
    assert f"Ran {count} test" in told


@pytest.mark.parametrize("names", [["Simple"], ["Default"], ["Default", "Simple"]])
def test_without_a_test_database_nothing_is_published(apart: tuple[Any, Any], names: list[str]) -> None:
    """No test names the broker's alias, so Django makes no test database for it."""
    project, queue = apart
    check(project, 3 * len(names), *names)
    assert rows(queue.url, COUNT) == [(0,)]


def test_without_the_app_nothing_is_published_either(apart: tuple[Any, Any]) -> None:
    project, queue = apart
    project.settings["INSTALLED_APPS"] = ["django.contrib.contenttypes", "things"]
    check(project, 6, "Default", "Simple")
    assert rows(queue.url, COUNT) == [(0,)]


def test_a_test_publishes_into_the_databases_that_it_names(apart: tuple[Any, Any]) -> None:
    """The broker's test database is there, because other tests name it."""
    project, queue = apart
    check(project, 10, "Named", "NamedWithoutTransaction", "Simple", "Default")
    assert rows(queue.url, COUNT) == [(0,)]


def test_a_real_address_beside_the_test_database(make_project: Callable[..., Any], empty_database: Any) -> None:
    project = make_project(default=empty_database.url)
    project.manage("migrate")
    project.settings = {"CELERY_BROKER_URL": empty_database.url}
    check(project, 1, "RealAddress")
    assert rows(empty_database.url, COUNT) == [(0,)]


def test_a_project_may_name_the_real_database_its_test_database(
    make_project: Callable[..., Any], empty_database: Any
) -> None:
    """As for a runner that makes no databases."""
    project = make_project(default=empty_database.url)
    project.manage("migrate")
    program = (
        "from django.test.utils import setup_test_environment\n"
        "setup_test_environment()\n"
        "import celery_postgres\n"
        "from things.tasks import add\n"
        "try:\n"
        "    print(add.delay(1, 2).state)\n"
        "except celery_postgres.NotPublishedError:\n"
        "    print('refused')"
    )
    assert project.run(program) == "refused"
    project.databases["default"]["TEST"] = {"NAME": empty_database.name}
    assert project.run(program) == "PENDING"
    assert rows(empty_database.url, COUNT) == [(1,)]


@pytest.mark.parametrize("form", ["the same settings", "a mirror"])
def test_two_aliases_of_one_database(
    make_project: Callable[..., Any], empty_database: Any, fresh: Any, form: str
) -> None:
    """The broker's alias is the second; Django migrates the test database of the first."""
    project = make_project(default=empty_database.url, queue=empty_database.url)
    project.settings = dict(QUEUE)
    with fresh() as replica:
        if form == "a mirror":
            project.databases["queue"]["NAME"] = replica.name
            project.databases["queue"]["TEST"] = {"MIRROR": "default"}
        check(project, 7, "Named", "NamedWithoutTransaction", "Simple")

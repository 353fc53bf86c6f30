"""What a project may configure, and the errors about what it may not."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chord, signature
from celery.backends.database import DatabaseBackend as Stock
from celery.exceptions import ImproperlyConfigured

import celery_postgres
from celery_postgres.errors import SchemaError
from celery_postgres.results.backend import DatabaseBackend
from environment.testkit.canvas import answer, chords_gone
from environment.testkit.databases import as_role
from environment.testkit.probe import Probe, results, unique
from environment.testkit.tables import run

SECRET = "postgresql://u:s3cret@nowhere.invalid/d"


@pytest.mark.parametrize("scheme", ["db+postgresql", "db+postgresql+psycopg2", "database+postgresql", "postgresql"])
def test_every_postgresql_address_selects_this_backend(scheme: str) -> None:
    app = Celery("client", backend=SECRET.replace("postgresql", scheme, 1), set_as_current=False)
    assert type(app.backend) is DatabaseBackend


def test_other_databases_keep_the_stock_backend(tmp_path: Path) -> None:
    app = Celery("client", backend=f"db+sqlite:///{tmp_path}/results", set_as_current=False)
    assert type(app.backend) is Stock


def test_the_backend_database_with_database_url_selects_this_backend() -> None:
    app = Celery("client", backend="database", set_as_current=False)
    app.conf.database_url = SECRET
    assert type(app.backend) is DatabaseBackend


def test_install_twice_changes_nothing() -> None:
    celery_postgres.install()
    app = Celery("client", backend="db+" + SECRET, set_as_current=False)
    assert type(app.backend) is DatabaseBackend


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"result_serializer": "pickle"}, "json"),
        ({"database_table_names": {"task": "mine"}}, "search_path"),
        ({"database_table_schemas": {"task": "mine"}}, "search_path"),
    ],
)
def test_an_unsupported_setting_is_an_error_that_names_the_supported_one(conf: dict[str, Any], words: str) -> None:
    app = Celery("client", backend="db+" + SECRET, set_as_current=False)
    app.conf.update(conf)
    with pytest.raises(ImproperlyConfigured, match=words) as caught:
        _ = app.backend
    assert next(iter(conf)) in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", [SECRET + "?nonsense=1", "postgresql://u:s3cret@h/d?sslmode"])
def test_the_error_about_a_bad_address_does_not_quote_it(url: str) -> None:
    app = Celery("client", backend="db+" + url, set_as_current=False)
    with pytest.raises((ValueError, ImproperlyConfigured)) as caught:
        _ = app.backend
    assert "s3cret" not in str(caught.value)


def test_an_address_is_shown_without_its_password() -> None:
    app = Celery("client", backend="db+" + SECRET, set_as_current=False)
    assert "s3cret" not in app.backend.as_uri()
    assert "nowhere.invalid" in app.backend.as_uri()
    assert "s3cret" in app.backend.as_uri(include_password=True)
    assert "s3cret" not in repr(app.backend)


def test_a_pickled_result_contains_no_address() -> None:
    app = Celery("client", backend="db+" + SECRET, set_as_current=False)
    for one in (app.AsyncResult("a"), app.GroupResult("g", [app.AsyncResult("a")])):
        data = pickle.dumps(one)
        assert b"s3cret" not in data
        assert b"nowhere" not in data


def test_an_unreachable_host_is_reported_without_the_password(make_app: Callable[..., Celery]) -> None:
    app = make_app("postgresql://u:s3cret@127.0.0.1:1/d")
    with pytest.raises(Exception, match="connection") as caught:
        _ = app.AsyncResult("a").state
    assert "s3cret" not in str(caught.value)


# -- tables and rights


@pytest.fixture
def empty(fresh: Any) -> Iterator[Any]:
    """A database without tables."""
    with fresh() as database:
        yield database


def test_the_error_about_missing_tables_names_the_command_that_creates_them(
    empty: Any, make_app: Callable[..., Celery]
) -> None:
    app = make_app(empty.url)
    for call in (
        lambda: app.AsyncResult("a").state,
        lambda: app.AsyncResult("a").get(timeout=60),
        lambda: app.backend.store_result("a", 1, "SUCCESS"),
        lambda: app.backend.cleanup(),
        lambda: app.GroupResult("g", []).save(),
    ):
        with pytest.raises(SchemaError, match="python -m celery_postgres migrate"):
            call()


def test_missing_rights_are_reported(plain_database: Any, server: Any, make_app: Callable[..., Celery]) -> None:
    if server.superuser_url is None:
        pytest.skip("only a superuser makes roles, and the server of DATABASE_URL is not ours")
    role = unique("nobody").replace("-", "_")
    run(server.superuser_url, f"CREATE ROLE {role} LOGIN")
    try:
        app = make_app(as_role(plain_database.url, role))
        with pytest.raises(SchemaError, match="grant"):
            app.backend.store_result("a", 1, "SUCCESS")
        with pytest.raises(SchemaError, match="grant"):
            _ = app.AsyncResult("a").state
    finally:
        run(server.superuser_url, f"DROP ROLE {role}")


# -- other brokers


def test_results_work_with_a_broker_of_another_kind(plain_database: Any) -> None:
    app = Celery("client", broker="memory://", backend="db+" + plain_database.url, set_as_current=False)

    @app.task(name="add", acks_late=True)
    def add(*numbers: int) -> int:
        return sum(numbers)

    @app.task(name="total", acks_late=True)
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    from celery.contrib.testing.worker import start_worker

    with start_worker(app, perform_ping_check=False, pool="solo", shutdown_timeout=60):
        assert answer(add.delay(1, 2)) == 3
        assert answer(chord([add.s(number, 1) for number in range(5)], total.s()).apply_async()) == 15
    chords_gone(plain_database.url)
    app.close()


@pytest.mark.parametrize("pool_name", ["threads", "prefork"])
def test_results_work_in_another_database_than_the_broker(
    probe: Probe, module_database: Any, make_app: Callable[..., Celery], pool_name: str
) -> None:
    """Result and acknowledgement are separate commits; a worker still finds a chord whose body was not sent."""
    tag = unique("body")
    lost = json.dumps({"task": "probe.body", "args": [], "kwargs": {"tag": f"{tag}-lost"}, "options": {}})
    run(
        module_database.url,
        "INSERT INTO celery_chord (id, due_at, size, done, body)"  # noqa: S608
        f" VALUES ('lost', now() - interval '1 hour', 1, 1, '{lost}')",
        "INSERT INTO celery_chord_part (chord_id, task_id, status) VALUES ('lost', 'a', 'SUCCESS')",
    )
    probe.start(pool=pool_name, env={"PROBE_RESULTS": results(module_database.url)})
    app = Celery("client", broker="sqla+" + probe.url, backend="db+" + module_database.url, set_as_current=False)
    assert answer(app.send_task("probe.run_late", [unique("late")]))
    parts = [signature("probe.add", (number, 1), app=app) for number in range(10)]
    many = [chord(parts, signature("probe.body", kwargs={"tag": f"{tag}-{number}"}, app=app)) for number in range(10)]
    for result in [one.apply_async() for one in many]:
        assert answer(result) == list(range(1, 11))
    chords_gone(module_database.url)
    assert set(probe.wait_for_all("body", [f"{tag}-{number}" for number in range(10)]).values()) == {1}
    probe.wait_for("body", f"{tag}-lost")
    app.pool.force_close_all()
    app.close()

"""What a worker tells `celery inspect`: everybody who reads its answers learns it, and Flower shows it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.core.dsn import PostgresDSN


def test_it_tells_where_its_broker_is_and_not_the_password(database: Any, start_worker: Any) -> None:
    from app.celery_app import celery_app, create_app
    from app.core.settings import Settings

    if database.tcp_url is None:
        pytest.skip("a server that is not ours has a password that this test does not know")
    dsn = PostgresDSN.parse(database.tcp_url)
    start_worker(database.tcp_url)
    app = create_app(Settings(database_url=database.tcp_url, _env_file=None))
    try:
        with app.connection_for_write() as connection:
            inspect = app.control.inspect(timeout=10, limit=1, connection=connection)
            (stats,) = inspect.stats().values()
            told = [stats, inspect.conf(with_defaults=True), inspect.report()]
    finally:
        app.close()
        celery_app.set_current()
    assert dsn.hosts[0] in stats["broker"]["hostname"]
    assert stats["broker"]["transport"] == "sqla"
    # The role and its password have one name; as a password it stands behind a colon.
    assert f":{dsn.password}@" not in json.dumps(told, default=str)

"""Fixtures: a database for the tests, the application in it, and a worker."""

import os
import secrets
from contextlib import closing
from urllib.parse import urlsplit

import celery_postgres
import psycopg2
import pytest
from celery.contrib.testing.worker import start_worker

import shop


def execute(url, statement):
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(statement)


@pytest.fixture(scope="session")
def database_url():
    """A new database on the server of DATABASE_URL, with the tables; dropped afterwards."""
    server, name = os.environ["DATABASE_URL"], f"test_{secrets.token_hex(4)}"
    execute(server, f"CREATE DATABASE {name}")
    url = urlsplit(server)._replace(path=f"/{name}").geturl()
    celery_postgres.create_schema(url)
    execute(url, "CREATE TABLE shop_order (number integer PRIMARY KEY)")
    yield url
    execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def app(database_url):
    """The application, in that database."""
    shop.app.conf.update(broker_url=database_url, result_backend=database_url)
    return shop.app


@pytest.fixture
def connection(app):
    """A connection of the program's own, on empty queues and tables."""
    app.control.purge()
    execute(app.conf.broker_url, "TRUNCATE shop_order")
    with closing(shop.connect()) as connection:
        yield connection


@pytest.fixture(scope="session")
def worker(app):
    """A worker in a thread of this process: real messages, real results."""
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=60) as worker:
        yield worker

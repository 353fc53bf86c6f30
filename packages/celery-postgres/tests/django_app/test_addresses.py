"""`django://ALIAS`: the broker and the result backend take their address from DATABASES."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import parse_dsn

import celery_postgres
from environment.testkit.databases import rows

AWKWARD = "p@ss:wo/rd?#%41&=; '\"\\ü"

#: Settings of an alias, and libpq's parameters for them.
CASES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "all": (
        {"NAME": "shop", "USER": "web", "PASSWORD": AWKWARD, "HOST": "db.example", "PORT": 6543},
        {"dbname": "shop", "user": "web", "password": AWKWARD, "host": "db.example", "port": "6543"},
    ),
    "name": ({"NAME": "shop"}, {"dbname": "shop"}),
    "awkward": ({"NAME": "my shop/ü?", "USER": "a b@c"}, {"dbname": "my shop/ü?", "user": "a b@c"}),
    "socket": ({"NAME": "shop", "HOST": "/run/my sockets"}, {"dbname": "shop", "host": "/run/my sockets"}),
    "abstract": ({"NAME": "shop", "HOST": "@abstract"}, {"dbname": "shop", "host": "@abstract"}),
    "hosts": (
        {"NAME": "shop", "HOST": "a,b", "PORT": "1,2", "OPTIONS": {"target_session_attrs": "read-write"}},
        {"dbname": "shop", "host": "a,b", "port": "1,2", "target_session_attrs": "read-write"},
    ),
    "ipv6": ({"NAME": "shop", "HOST": "::1"}, {"dbname": "shop", "host": "::1"}),
    "service": (
        {"OPTIONS": {"service": "mine", "passfile": "/run/pgpass"}},
        {"service": "mine", "passfile": "/run/pgpass"},
    ),
    "tls": (
        {"NAME": "shop", "OPTIONS": {"sslmode": "verify-full", "sslrootcert": "/run/ca.pem", "connect_timeout": 7}},
        {"dbname": "shop", "sslmode": "verify-full", "sslrootcert": "/run/ca.pem", "connect_timeout": "7"},
    ),
    "search_path": (
        {"NAME": "shop", "OPTIONS": {"options": "-c search_path=queue,public"}},
        {"dbname": "shop", "options": "-c search_path=queue,public"},
    ),
    "role": (
        {"NAME": "shop", "OPTIONS": {"assume_role": "the owner", "options": "-c work_mem=1MB"}},
        {"dbname": "shop", "options": "-c work_mem=1MB -c role=the\\ owner"},
    ),
    "of_django_alone": (
        {
            "NAME": "shop",
            "CONN_MAX_AGE": 0,
            "OPTIONS": {
                "pool": {"min_size": 1},
                "isolation_level": 4,
                "server_side_binding": True,
                "prepare_threshold": 5,
                "client_encoding": "LATIN1",
                "sslcert": None,
            },
        },
        {"dbname": "shop"},
    ),
}

PROGRAM = """
import json, sys
from django.db import connections
from celery_postgres.django.addresses import dsn_of
print(json.dumps({alias: dsn_of(alias) for alias in connections if alias != "default"}))
"""


def test_every_form_of_databases(make_project: Callable[..., Any], empty_database: Any) -> None:
    project = make_project(default=empty_database.url)
    for alias, (settings, _) in CASES.items():
        project.databases[alias] = {"ENGINE": "django.db.backends.postgresql", **settings}
    found = {alias: parse_dsn(dsn) for alias, dsn in json.loads(project.run(PROGRAM)).items()}
    assert found == {alias: wanted for alias, (_, wanted) in CASES.items()}


@pytest.fixture
def awkward_role(server: Any) -> Iterator[tuple[str, str]]:
    """A role whose name and password have every special character."""
    if server.superuser_url is None:
        pytest.skip("creating a role needs a superuser, and this server is not ours")
    name = "a b@c/d?e%41"
    with closing(psycopg2.connect(server.superuser_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            role = sql.Identifier(name)
            cursor.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}").format(role, sql.Literal(AWKWARD)))
            try:
                yield name, AWKWARD
            finally:
                cursor.execute(sql.SQL("DROP ROLE {}").format(role))


def test_a_login_with_every_special_character(
    make_project: Callable[..., Any], fresh: Any, awkward_role: tuple[str, str]
) -> None:
    """It migrates, publishes, and shows its password nowhere."""
    with fresh() as database:
        project = make_project(default=database.tcp_url)
        user, password = awkward_role
        project.databases["default"] |= {"USER": user, "PASSWORD": password}
        told = project.manage("migrate")
        told += project.run("from things.tasks import add; print(add.delay(1, 2).id)")
        told += project.run("from shop import celery_app as app; print(app.bugreport(), app.connection().as_uri())")
        assert "django://default" in told
        assert password not in told
        assert rows(database.superuser_url, "SELECT count(*) FROM kombu_message") == [(1,)]


WRONG = {
    "none": ("django://none", "DATABASES has no 'none', which django://none names"),
    "sqlite": ("django://lite", "DATABASES['lite'] has the ENGINE django.db.backends.sqlite3: django://lite needs"),
    "option": ("django://odd", "it cannot use the parameter no_such_option"),
}


def test_what_is_wrong_is_one_line(make_project: Callable[..., Any], empty_database: Any) -> None:
    project = make_project(default=empty_database.url)
    project.databases["lite"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    project.databases["odd"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "shop",
        "PASSWORD": "hush",
        "OPTIONS": {"no_such_option": "hush"},
    }
    for url, text in WRONG.values():
        project.settings = {"CELERY_BROKER_URL": url}
        refused = project.refused("migrate")
        assert text in refused
        assert "celery_postgres.E002" in refused
        assert "hush" not in refused
        done = project.call("-m", "celery", "-A", "shop", "inspect", "ping")
        assert done.returncode != 0
        assert text in done.stdout + done.stderr
        assert "hush" not in done.stdout + done.stderr


def test_a_setting_that_exists_wins(make_project: Callable[..., Any], empty_database: Any) -> None:
    project = make_project(default=empty_database.url)
    program = "from shop import celery_app as app; print(app.conf.broker_url, app.conf.result_backend)"
    assert project.run(program) == "django://default django://default"
    project.settings = {"CELERY_BROKER_URL": "postgresql://elsewhere/shop", "CELERY_RESULT_BACKEND": "django-db"}
    assert project.run(program) == "postgresql://elsewhere/shop django-db"


def test_commands_of_celery_that_set_django_not_up(project: Any) -> None:
    """`inspect` and `status` load the settings and no app of INSTALLED_APPS."""
    project.manage("migrate")
    done = project.call("-m", "celery", "-A", "shop", "inspect", "ping", "--timeout", "0.1")
    assert "No nodes replied" in done.stdout + done.stderr


def test_the_tool_alone_names_the_command_that_reads_the_settings(project: Any) -> None:
    project.manage("migrate")
    done = subprocess.run(
        [sys.executable, "-m", "celery_postgres", "check"],
        env={**project.environment, "CELERY_BROKER_URL": "django://default"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "CELERY_BROKER_URL names a database of Django's settings" in done.stderr
    assert "`celery -A PROJECT queues`" in done.stderr
    named = project.call("-m", "celery", "-A", "shop", "queues", "check")
    assert named.returncode == 0, named.stderr


def test_the_settings_need_no_django() -> None:
    """`celery_postgres`, and what a settings file imports, load where Django is missing."""
    program = (
        "import sys\n"
        "sys.modules['django'] = None\n"
        "import celery_postgres.django\n"
        "assert celery_postgres.django.database_url() == 'django://default'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_package_does_not_import_its_django_part() -> None:
    program = "import sys, celery_postgres; assert 'celery_postgres.django' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert celery_postgres.__version__

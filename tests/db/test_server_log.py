"""What PostgreSQL's log shows when it logs all that it can: no key, no hash of one, no pseudonym, no password.

And for the application's roles, however little is configured: no payload of a statement that failed.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import UUID

import psycopg2
import pytest

from app.core.settings import Settings
from app.db import api_keys
from app.db.engine import build_engine
from app.db.targets import tenant_key
from app.tasks import maintenance
from environment.installation import DEFAULT_MAJOR
from environment.provision import QUIET, provision
from environment.sources import CHECKOUT
from environment.temporary import TemporaryCluster
from tests.maintenance.support import add_events, as_tenant, scrub

TENANT = UUID(int=7)
HASH_KEY = "a key that nobody may read"
EVERYTHING = {
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_duration": "on",
    "log_min_messages": "debug1",
    "log_min_error_statement": "debug1",
    "log_error_verbosity": "verbose",
    "log_parameter_max_length": "-1",
    "log_parameter_max_length_on_error": "-1",
}


class Log:
    """The log of a server, from now on."""

    def __init__(self, cluster: TemporaryCluster) -> None:
        self._path = cluster.log
        self._begin = self._path.stat().st_size

    def text(self) -> str:
        return self._path.read_bytes()[self._begin :].decode(errors="replace")

    def shows(self, secret: bytes) -> bool:
        """As text, in base64, in hexadecimal or in the octal that the driver writes for some bytes."""
        text = self.text().lower()
        octal = "".join(chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in secret).lower()
        return any(form in text for form in (secret.hex(), octal, octal.replace("\\", "\\\\")))


@pytest.fixture(scope="module")
def talkative(migrate: Callable[[str], None]) -> Iterator[TemporaryCluster]:
    """A server that logs everything, and a migrated database whose owner is not spared."""
    with TemporaryCluster(int(os.environ.get("SKELDIR_POSTGRES_MAJOR", DEFAULT_MAJOR)), tcp=True) as cluster:
        migrate(cluster.url())
        cluster.options |= EVERYTHING
        cluster.restart()
        with closing(psycopg2.connect(cluster.superuser_url)) as superuser:
            superuser.autocommit = True
            superuser.cursor().execute("ALTER ROLE app_user RESET ALL")
        yield cluster


@pytest.fixture
def talkative_engine(talkative: TemporaryCluster) -> Iterator[Any]:
    engine = build_engine(Settings(database_url=talkative.url(), _env_file=None))
    yield engine
    engine.dispose()


def test_a_key_and_its_hash(talkative: TemporaryCluster, talkative_engine: Any) -> None:
    log = Log(talkative)
    with talkative_engine.begin() as connection:
        record, key = api_keys.issue(connection, TENANT, "a test")
    for presented, known in ((key, True), (key[:-1] + ("A" if key[-1] != "A" else "B"), False)):
        with talkative_engine.begin() as connection:
            assert (api_keys.authenticate(connection, presented) is not None) is known
    with talkative_engine.begin() as connection:
        assert [one.id for one in api_keys.list_keys(connection, TENANT)] == [record.id]
        assert api_keys.revoke(connection, record.id) is not None
    assert "INSERT INTO public.api_key" in log.text(), "it logs nothing"
    assert not log.shows(key.split("_", 2)[2].encode())
    assert not log.shows(hashlib.sha256(key.encode()).digest())


def test_the_key_of_a_scrubbing_and_what_it_leaves(
    talkative: TemporaryCluster, talkative_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database_url=talkative.url(), _env_file=None, maintenance_hash_key=HASH_KEY)
    monkeypatch.setattr(maintenance, "get_settings", lambda: settings)
    monkeypatch.setattr(maintenance, "get_engine", lambda: talkative_engine)
    add_events(talkative_engine, TENANT)
    scrub(talkative_engine, TENANT, "email", "hash", days=0)
    log = Log(talkative)
    (policy,) = maintenance.scrub_pii(tenant_id=str(TENANT), dry_run=False)["policies"]
    assert policy["rows_changed"] == 30
    text = log.text()
    assert "customer_event" in text, "it logs nothing"
    key = tenant_key(HASH_KEY, TENANT)
    for secret in (HASH_KEY.encode(), key, *(bytes(byte ^ pad for byte in key) for pad in (0x36, 0x5C))):
        assert not log.shows(secret)
    emails = {email for (email,) in as_tenant(talkative_engine, TENANT, "SELECT email FROM customer_event")}
    assert "hmac-sha256:" + hmac.digest(key, b"person1@example.org", "sha256").hex() in emails
    for email in emails:
        assert email not in text
        assert email.partition(":")[2] not in text
    assert "@example.org" not in text


def test_the_password_of_a_new_role(talkative: TemporaryCluster) -> None:
    log = Log(talkative)
    provision(talkative.superuser_url, "fresh", "correct horse battery staple", "fresh_db")
    with closing(psycopg2.connect(talkative.superuser_url)) as superuser, superuser.cursor() as cursor:
        cursor.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'fresh'")
        verifier = cursor.fetchone()[0]
    assert "pg_authid" in log.text(), "it logs nothing"
    assert "correct horse" not in log.text()
    assert verifier not in log.text()
    psycopg2.connect(talkative.tcp_url("fresh", "correct horse battery staple", "fresh_db")).close()


def test_roles_sql_and_provision_agree() -> None:
    script = (CHECKOUT / "ops/postgres/roles.sql").read_text()
    assert all(f"('{name}', '{value}')" in script for name, value in QUIET.items())


#: Statements that fail, each another way, with a payload in them.
FAILURES = [
    "SELECT 1 / 0, 'the payload'",
    "INSERT INTO kombu_message (payload, version) VALUES ('the payload', NULL)",
    "INSERT INTO celery_taskmeta (id, task_id) VALUES (1, 'the payload'), (2, 'the payload')",
    "INSERT INTO customer_event (tenant_id, kind, email) VALUES (gen_random_uuid(), '', 'the payload')",
    "DO $$ BEGIN RAISE EXCEPTION 'no' USING DETAIL = 'the payload'; END $$",
    "SELECT 'the payload', pg_sleep(30)",
]


def _fail(url: str) -> None:
    for statement in FAILURES:
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '200ms'")
            with pytest.raises(psycopg2.Error):
                cursor.execute(statement)


def test_what_fails_under_the_provisioned_role(
    private_cluster: TemporaryCluster, migrate: Callable[[str], None]
) -> None:
    """The server is as initdb leaves it."""
    migrate(private_cluster.url())
    log = Log(private_cluster)
    _fail(private_cluster.tcp_url())
    assert log.text().count("ERROR:") == len(FAILURES)
    assert "the payload" not in log.text()


def test_what_fails_under_a_member_of_the_roles(
    private_cluster: TemporaryCluster, migrate: Callable[[str], None]
) -> None:
    """Also under one who was made after roles.sql was run."""
    migrate(private_cluster.url())
    with closing(psycopg2.connect(private_cluster.url("postgres"))) as superuser:
        superuser.autocommit = True
        superuser.cursor().execute((CHECKOUT / "ops/postgres/roles.sql").read_text())
        superuser.cursor().execute("CREATE ROLE runner LOGIN IN ROLE celery_worker")
    log = Log(private_cluster)
    with closing(psycopg2.connect(private_cluster.url("runner"))) as connection, connection.cursor() as cursor:
        for name, value in QUIET.items():
            cursor.execute(f"SHOW {name}")
            assert cursor.fetchone() == (value,)
    _fail(private_cluster.url("runner"))
    assert log.text().count("ERROR:") == len(FAILURES)
    assert "the payload" not in log.text()

"""API keys: issued once, stored as a hash, read before a tenant is known, and void once they are revoked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from app.core.settings import Settings
from app.db import api_keys
from app.db.engine import build_engine
from app.db.tenancy import get_tenant_guc, set_tenant_guc
from environment.sources import CHECKOUT
from environment.testkit.databases import rows

A, B = UUID(int=1), UUID(int=2)


@pytest.fixture
def engine(module_database: Any) -> Iterator[Engine]:
    engine = build_engine(Settings(database_url=module_database.url))
    yield engine
    engine.dispose()


def issue(engine: Engine, tenant: UUID = A) -> str:
    with engine.begin() as connection:
        return api_keys.issue(connection, tenant, "a test")[1]


def keys_tool(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.keys", *words],
        env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(CHECKOUT / "backend")},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_key_makes_the_transaction_its_tenants(engine: Engine) -> None:
    key = issue(engine, B)
    with engine.begin() as connection:
        found = api_keys.authenticate(connection, key)
        assert found is not None
        assert found.tenant_id == B
        assert get_tenant_guc(connection) == B
    with engine.begin() as connection:
        assert get_tenant_guc(connection) is None


def test_what_is_stored_does_not_open(engine: Engine, module_database: Any) -> None:
    key = issue(engine)
    if module_database.superuser_url is None:
        pytest.skip("what is stored can be read by our own superuser only")
    stored = "".join(str(row) for row in rows(module_database.superuser_url, "SELECT k::text FROM api_key AS k"))
    assert key.split("_")[1] in stored.replace("-", "")
    assert key.split("_", 2)[2] not in stored


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
        lambda key: key[:-1],
        lambda key: key + "A",
        lambda key: key.upper(),
        lambda key: key.replace(key.split("_")[1], uuid4().hex),
        lambda key: "\ud800" + key,
        lambda key: key.replace("sk_", "sk_\u0661")[: len(key)],
        lambda key: "",
        lambda key: "' OR true --",
    ],
)
def test_anything_else_opens_nothing(engine: Engine, change: Any) -> None:
    key = issue(engine)
    with engine.begin() as connection:
        assert api_keys.authenticate(connection, change(key)) is None
        assert get_tenant_guc(connection) is None


def test_a_revoked_key_opens_nothing(engine: Engine) -> None:
    key = issue(engine)
    key_id = UUID(key.split("_")[1])
    with engine.begin() as connection:
        revoked = api_keys.revoke(connection, key_id)
    assert revoked is not None
    assert revoked.revoked_at is not None
    with engine.begin() as connection:
        assert api_keys.authenticate(connection, key) is None
        assert api_keys.revoke(connection, key_id) is None


def test_without_its_id_no_key_can_be_seen_and_with_it_one_to_read_alone(engine: Engine) -> None:
    key = issue(engine, A)
    issue(engine, A)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM api_key")).scalar_one() == 0
        set_tenant_guc(connection, B, local=True)
        connection.execute(text("SELECT set_config('app.api_key_id', :id, true)"), {"id": str(UUID(key.split("_")[1]))})
        assert connection.execute(text("SELECT tenant_id FROM api_key WHERE tenant_id = :a"), {"a": A}).all() == [(A,)]
        assert connection.execute(text("UPDATE api_key SET name = 'mine' WHERE tenant_id = :a"), {"a": A}).rowcount == 0
        assert connection.execute(text("DELETE FROM api_key WHERE tenant_id = :a"), {"a": A}).rowcount == 0


@pytest.mark.parametrize("name", ["", "x" * 101, "two\nlines"])
def test_a_name_that_cannot_be(engine: Engine, name: str) -> None:
    with engine.begin() as connection, pytest.raises(api_keys.KeyNameError):
        api_keys.issue(connection, A, name)


def test_the_tool_issues_lists_and_revokes(engine: Engine, module_database: Any) -> None:
    tenant = str(uuid4())
    issued = keys_tool(module_database.url, "issue", tenant, "reports")
    key = issued.stdout.strip()
    assert issued.returncode == 0, issued.stderr
    assert key not in issued.stderr
    with engine.begin() as connection:
        record = api_keys.authenticate(connection, key)
    assert record is not None
    assert str(record.tenant_id) == tenant

    (listed,) = json.loads(keys_tool(module_database.url, "--json", "list", tenant).stdout)
    assert (listed["id"], listed["name"], listed["revoked_at"]) == (str(record.id), "reports", None)
    assert key not in json.dumps(listed)

    assert keys_tool(module_database.url, "revoke", str(record.id)).returncode == 0
    again = keys_tool(module_database.url, "revoke", str(record.id))
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"keys: there is no valid key {record.id}\n"
    assert "revoked" in keys_tool(module_database.url, "list", tenant).stdout


def test_the_tool_says_in_one_line_what_is_wrong(tmp_path: Any) -> None:
    refused = keys_tool(f"postgresql://u:s3cret@/nowhere?host={tmp_path}", "list", str(A))
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert "s3cret" not in refused.stderr

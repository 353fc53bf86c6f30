"""./dev provision: the role and database of DATABASE_URL on a server that is not ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from environment.client import provision_server
from environment.errors import UserError
from environment.temporary import TemporaryCluster

Query = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def superuser(private_cluster: TemporaryCluster, monkeypatch: pytest.MonkeyPatch) -> TemporaryCluster:
    monkeypatch.setenv("SKELDIR_SUPERUSER_URL", private_cluster.superuser_url)
    return private_cluster


def test_what_database_url_names_is_made_once(
    superuser: TemporaryCluster, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = "p@:/ '\""
    url = superuser.tcp_url("some role", password, "some-db")
    monkeypatch.setenv("DATABASE_URL", url.replace("postgresql://", "postgresql+asyncpg://"))
    assert provision_server([]) == 0
    assert provision_server([]) == 0
    assert query(url, "SELECT rolsuper, rolbypassrls, rolcreatedb FROM pg_roles WHERE rolname = current_user") == [
        (False, False, True)
    ]
    query(url, "CREATE TABLE public.mine (id int)")


@pytest.mark.parametrize(
    ("url", "superuser_url", "says"),
    [
        ("postgresql://u:p@h/d", "", "set DATABASE_URL to the role and database to create, and SKELDIR_SUPERUSER_URL"),
        ("redis://h", "postgresql://s@h/d", "DATABASE_URL must be a PostgreSQL URL"),
        ("postgresql://u@h/d", "postgresql://s@h/d", "names no user, or no password"),
        ("postgresql://u:p@h/d", "redis://h", "SKELDIR_SUPERUSER_URL must be a PostgreSQL URL"),
        ("postgresql://u:p@h/d", "postgresql://s:geheim@127.0.0.1:1/d", "cannot reach the database 127.0.0.1:1/d"),
    ],
)
def test_bad_input_is_one_line_without_a_password(
    url: str, superuser_url: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("SKELDIR_SUPERUSER_URL", superuser_url)
    with pytest.raises(UserError, match=says) as raised:
        provision_server([])
    assert "\n" not in str(raised.value)
    assert "geheim" not in str(raised.value)


def test_a_role_that_may_not(superuser: TemporaryCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKELDIR_SUPERUSER_URL", superuser.url())
    monkeypatch.setenv("DATABASE_URL", superuser.tcp_url("other", "other", "other"))
    with pytest.raises(UserError, match="app_user may not create roles or databases"):
        provision_server([])

"""Database URLs of the application and the broker: libpq reads from them what was put in, or an error of one line
says why not.  No output shows a password, even if its author did not percent-encode the URL."""

from __future__ import annotations

import traceback
from urllib.parse import quote

from psycopg2.extensions import parse_dsn

from app.core.dsn import DatabaseURLError, PostgresDSN
from celery_postgres.database.address import database_of, describe, direct_dsn, masked, parsed

MARK = "s3cretW0rd"
SEEDS = [
    b"postgresql://u:p%40@h1:5432,h2:5433/db?target_session_attrs=read-write&sslmode=require",
    b"postgresql+asyncpg://u:p@[::1]:5433/db?ssl=true&statement_cache_size=0",
    b"postgres:///db?host=/run/pg&user=u&p%61ssword=s3cretW0rd&options=-c%20a%3Db",
    b"postgresql://u:s3cretW0rd%ff@h/db?application_name=%00",
    b"host=h password='s3cretW0rd' dbname=db",
    b"u\0a/\0h\0d\0-c x=y",
]


def check(data: bytes) -> None:
    """Take the bytes as a URL, as a password without percent-encoding, and as parts of a URL."""
    text = data.decode("utf-8", "surrogateescape")
    check_text(text)
    check_unencoded(text)
    parts = text.split("\0")
    if len(parts) == 5 and all(parts):
        check_parts(*parts)


def check_text(url: str) -> None:
    """Any text is parsed as libpq parses it, or refused with our error."""
    masked(url)
    for listens in (False, True):
        try:
            dsn = direct_dsn(url) if listens else parsed(url, "broker")
        except ValueError as error:
            assert type(error) is ValueError, type(error)
            _one_line(error)
        else:
            password = parse_dsn(dsn).get("password", "")
            describe(dsn)
            database_of(dsn)
            if MARK in password and url.count(MARK) == 1:
                assert listens or MARK not in masked(url)
                assert MARK not in describe(dsn)
    try:
        found = PostgresDSN.parse(url)
    except DatabaseURLError as error:
        _one_line(error)
    else:
        assert PostgresDSN.parse(found.url()).libpq() == found.libpq()
        assert parse_dsn(found.libpq()) == parse_dsn(found.url())
        if MARK in (found.password or "") and url.count(MARK) == 1:
            assert MARK not in repr(found)


def check_unencoded(text: str) -> None:
    """A password of `text` and a mark, not percent-encoded: however the URL is parsed, no output shows the mark."""
    url = f"postgresql://u:{text.replace(MARK, '')}{MARK}@h/db"
    assert MARK not in masked(url)
    for ours in (False, True):
        try:
            shown = PostgresDSN.parse(url).describe() if ours else describe(parsed(url, "broker"))
            assert MARK not in shown
        except ValueError as error:
            assert isinstance(error, DatabaseURLError) or type(error) is ValueError, type(error)
            _one_line(error)
            assert MARK not in str(error)


def check_parts(user: str, password: str, host: str, database: str, options: str) -> None:
    """Encoded as documented, every part reaches libpq unchanged, through both parsers."""
    host = f"/{host}" if "/" in host else host
    wanted = {"user": user, "password": password, "host": host, "dbname": database, "options": options}
    odd = any(ord(one) < 32 or 0xD800 <= ord(one) < 0xE000 for one in "".join(wanted.values()))
    if odd or set(host) & set(",[]: "):
        return
    url = f"postgresql://{quote(user, '')}:{quote(password, '')}@/?" + "&".join(
        f"{name}={quote(wanted[name], '')}" for name in ("host", "dbname", "options")
    )
    assert parse_dsn(parsed(url, "broker")) == wanted
    assert parse_dsn(PostgresDSN.parse(url).libpq()) == wanted
    assert parse_dsn(PostgresDSN.parse(url).url()) == wanted


def _one_line(error: ValueError) -> None:
    text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) < 300
    # Without the original exception, which would quote the URL.
    assert "During handling" not in "".join(traceback.format_exception(error))

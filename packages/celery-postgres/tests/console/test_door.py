"""Signing in and out, and forms of other sites."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from celery_postgres import console
from celery_postgres.console import ConfiguredKeys, ConsoleError, ThisMachine, new_key
from celery_postgres.console.hosts import OwnHosts, allowed
from celery_postgres.console.serving import keys_for
from celery_postgres.console.sessions import COOKIE, LIFETIME_S, Attempts, Sessions
from celery_postgres.database.ended_session_store import EndedSessionStore
from celery_postgres.readmodel import ReadModel
from environment.testkit.console import Console, serving, staff_keys


def test_a_key_is_exchanged_for_a_cookie(served: Console) -> None:
    answer = served.request("POST", "/sign-in", {"key": f" {served.keys['reader']} ", "next": "/queues?x=1"})
    assert (answer.status, answer.headers["location"]) == (303, "/queues?x=1")
    cookie = answer.headers["set-cookie"]
    assert served.keys["reader"] not in cookie
    assert cookie.startswith(f"{COOKIE}=")
    for flag in ("Secure", "HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={LIFETIME_S}"):
        assert flag in cookie
    assert "Domain" not in cookie


@pytest.mark.parametrize("then", ["//evil.example", "https://evil.example", "/\\evil.example", "", "/\r\nX: y", "/é"])
def test_it_leads_nowhere_else(served: Console, then: str) -> None:
    answer = served.request("POST", "/sign-in", {"key": served.keys["reader"], "next": then})
    assert (answer.status, answer.headers["location"]) == (303, "/")


def test_a_wrong_key_is_told_below_its_field_and_not_repeated(module_database: Any, served: Console) -> None:
    with serving(module_database.url, served.night) as other:
        for key in ("", "nonsense", "<script>", "ck_" + "A" * 43):
            answer = other.request("POST", "/sign-in", {"key": key, "next": "/queues"})
            assert answer.status == 401
            assert 'aria-describedby="key-error"' in answer.text
            assert 'value="/queues"' in answer.text
            assert not key or key not in answer.text
        for _ in range(Attempts.MOST):
            answer = other.request("POST", "/sign-in", {"key": "nonsense"})
        assert answer.status == 429
        assert other.request("POST", "/sign-in", {"key": other.keys["reader"]}).status == 429


def test_a_form_of_another_site_does_nothing(served: Console) -> None:
    form = {"key": served.keys["reader"]}
    for header in (
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ):
        answer = served.request("POST", "/sign-in", form, **header)
        assert answer.status == 400
        assert "set-cookie" not in answer.headers
    same = {"Origin": served.address, "Host": f"127.0.0.1:{served.port}"}
    assert served.request("POST", "/sign-in", form, **same).status == 303


@pytest.mark.parametrize("host", ["[", "a b", "evil#", "x?y"])
def test_a_host_that_is_no_address_is_no_failure(served: Console, host: str) -> None:
    door = served.get("/queues?a=1", None, Host=host)
    assert door.status == 401
    assert 'value="/queues?a=1"' in door.text
    assert served.get("/queues", Host=host).status == 200


def test_two_consoles_of_a_host_have_a_session_each(served: Console) -> None:
    outer = {}
    for path in ("/one", "/two"):
        key, line = new_key("reader", "support")
        inner = console.create(console.Source(ReadModel(served.database_url)), console.ConfiguredKeys([line]))
        outer[path] = key, inner
    mounts = Starlette(routes=[Mount(path, inner) for path, (_, inner) in outer.items()])
    with serving(served.database_url, served.night) as other:
        other._server.config.loaded_app = mounts
        cookies = []
        for path, (key, _) in outer.items():
            answer = other.request("POST", f"{path}/sign-in", {"key": key})
            cookies.append(answer.headers["set-cookie"].partition(";")[0])
        assert all(cookie.startswith(COOKIE) for cookie in cookies)
        assert len({cookie.partition("=")[0] for cookie in cookies}) == 2
        for path in outer:
            assert other.request("GET", f"{path}/queues", Cookie="; ".join(cookies)).status == 200


def test_signing_out_needs_the_token_of_the_session(served: Console) -> None:
    cookie = served.cookie("operator")
    assert served.request("POST", "/sign-out", {"token": "0" * 64}, Cookie=cookie).status == 400
    token = served.get("/").text.partition('name="token" value="')[2].partition('"')[0]
    answer = served.request("POST", "/sign-out", {"token": token}, Cookie=cookie)
    assert answer.status == 303
    assert "Max-Age=0" in answer.headers["set-cookie"]


def test_signing_out_ends_the_session_in_all_processes(module_database: Any, served: Console) -> None:
    staff = staff_keys()
    options = {"staff": staff, "secret": "a secret of all processes of this console"}
    with (
        serving(module_database.url, served.night, **options) as one,
        serving(module_database.url, served.night, **options) as other,
    ):
        cookie, second = (one.request("POST", "/sign-in", {"key": one.keys["operator"]}) for _ in range(2))
        cookie, second = (answer.headers["set-cookie"].partition(";")[0] for answer in (cookie, second))
        for process in (one, other):
            assert process.request("GET", "/queues", Cookie=cookie).status == 200
        token = one.request("GET", "/", Cookie=cookie).text.partition('name="token" value="')[2].partition('"')[0]
        assert one.request("POST", "/sign-out", {"token": token}, Cookie=cookie).status == 303
        for process in (one, other):
            for path in ("/queues", "/fresh?of=queues", "/events?of=queues"):
                assert process.request("GET", path, Cookie=cookie).status == 401, path
            act = {"do": "pause", "queue": "llm", "token": token}
            assert process.request("POST", "/act", act, Cookie=cookie).status == 401
            assert process.request("GET", "/queues", Cookie=second).status == 200, "a session of its own"


def test_a_sign_out_that_the_database_does_not_hear_of_says_so(
    module_database: Any, served: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(store: EndedSessionStore, digest: str) -> None:
        raise psycopg2.OperationalError("the server is away")

    monkeypatch.setattr(EndedSessionStore, "end", fails)
    with serving(module_database.url, served.night) as other:
        cookie = other.cookie("reader")
        token = other.get("/", "reader").text.partition('name="token" value="')[2].partition('"')[0]
        answer = other.request("POST", "/sign-out", {"token": token}, Cookie=cookie)
        assert (answer.status, "Max-Age=0" in answer.headers["set-cookie"]) == (503, True)
        assert "revoke the key" in answer.text
        assert other.request("GET", "/queues", Cookie=cookie).status == 401


def test_a_console_without_keys_answers_to_this_machine_alone(served: Console) -> None:
    application = console.create(
        console.Source(ReadModel(served.database_url)), console.ThisMachine(), allowed_hosts=["Ops.example"]
    )
    outer = Starlette(routes=[Mount("/console", application)])
    own = {"Host": "localhost:8000"}
    for client, headers, more in (
        ("127.0.0.1", own, {}),
        ("127.3.4.5", {"Host": "127.0.0.1"}, {}),
        ("::1", {"Host": "[::1]:8000"}, {}),
        ("::ffff:127.0.0.1", own, {}),
        ("127.0.0.1", {"Host": "ops.example."}, {}),
    ):
        assert ask(outer, client, headers, **more) == (200, ""), (client, headers)
    for client, headers, more, why in (
        ("192.168.1.20", own, {}, "came from elsewhere"),
        ("::ffff:192.168.1.20", own, {}, "came from elsewhere"),
        ("fe80::1", own, {}, "came from elsewhere"),
        (None, own, {}, "came from elsewhere"),
        ("testclient", own, {}, "came from elsewhere"),
        ("127.0.0.1", {"Host": "evil.com"}, {}, "names another host"),
        ("127.0.0.1", {"Host": "192.168.1.5:8000"}, {}, "names another host"),
        ("127.0.0.1", {"Host": "127.0.0.1.evil.com"}, {}, "names another host"),
        ("127.0.0.1", {}, {}, "names another host"),
        ("127.0.0.1", own | {"X-Forwarded-For": "127.0.0.1"}, {}, "through a proxy"),
        ("127.0.0.1", own | {"x-forwarded-proto": ""}, {}, "through a proxy"),
        ("127.0.0.1", own | {"Forwarded": "for=127.0.0.1"}, {}, "through a proxy"),
        ("127.0.0.1", own | {"X-Real-IP": "127.0.0.1"}, {}, "through a proxy"),
        ("127.0.0.1", own, {"http_version": "1.0"}, "HTTP/1.0"),
    ):
        for method, path in (("GET", "/console/"), ("POST", "/console/act"), ("GET", "/console/events?of=queues")):
            status, text = ask(outer, client, headers, method=method, path=path, **more)
            assert status == 403, (client, headers)
            assert why in text
            assert text.count("\n") == 1
            assert "ConfiguredKeys" in text


def ask(
    application: Any,
    client: str | None,
    headers: dict[str, str],
    *,
    method: str = "GET",
    path: str = "/console/",
    **more: str,
) -> tuple[int, str]:
    """A request as a server hands it over; the text of a refusal."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    place, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": place, "raw_path": place.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": None if client is None else (client, 40_000), "server": ("127.0.0.1", 8000), "state": {}, **more,
    }  # fmt: skip
    asyncio.run(application(scope, receive, send))
    status = next(one["status"] for one in sent if one["type"] == "http.response.start")
    text = b"".join(one.get("body", b"") for one in sent)
    return status, "" if status == 200 else text.decode()


def test_a_form_that_is_too_long_is_refused(served: Console) -> None:
    assert served.request("POST", "/sign-in", {"key": "x" * 70_000}).status == 400


def test_a_session_ends() -> None:
    sessions = Sessions("a secret of all processes of the console")
    assert sessions.read(sessions.cookie("k")).key == "k"  # type: ignore[union-attr]
    assert sessions.read(sessions.cookie("k", now_s=time.time() - LIFETIME_S - 1)) is None
    assert Sessions().read(sessions.cookie("k")) is None, "another secret, as after a restart"
    cookie = sessions.cookie("k")
    for forged in ("", ".", "x", cookie[:-1], cookie + "0", cookie.replace(".", "", 1), "é." + "0" * 64, "a" * 5_000):
        assert sessions.read(forged) is None
    again = Sessions("a secret of all processes of the console")
    assert again.read(cookie) == sessions.read(cookie)


def test_form_tokens_are_of_one_session() -> None:
    sessions = Sessions()
    one, other = (sessions.read(sessions.cookie("k")) for _ in range(2))
    assert one is not None
    assert other is not None
    assert sessions.is_token(one, sessions.token(one))
    assert not sessions.is_token(one, sessions.token(other))
    assert not sessions.is_token(one, "é")


def test_attempts_remember_a_bounded_number_of_addresses() -> None:
    attempts = Attempts()
    attempts.MOST_ADDRESSES = 3  # type: ignore[misc]
    for number in range(5):
        attempts.failed(f"10.0.0.{number}")
    assert len(attempts._failed) == 3


def test_only_this_machine_needs_no_key() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        assert isinstance(keys_for(host, {}), ThisMachine)
    for host in ("0.0.0.0", "::", "10.0.0.1", "console.example"):  # noqa: S104
        with pytest.raises(ConsoleError, match="without keys"):
            keys_for(host, {})
    _, line = new_key("operator", "on-call")
    assert isinstance(keys_for("127.0.0.1", {"CELERY_CONSOLE_KEYS": line}), ConfiguredKeys)
    assert len(keys_for("0.0.0.0", {"CELERY_CONSOLE_KEYS": f"{line}\n{new_key('reader', 'wall')[1]}"})) == 2  # type: ignore[arg-type]  # noqa: S104


@pytest.mark.parametrize(
    "line", ["", "operator x", "tenant x " + "0" * 64, "reader+payloads2 x " + "0" * 64, "a b c d"]
)
def test_a_line_that_is_no_key_is_named_and_not_quoted(line: str) -> None:
    with pytest.raises(ConsoleError, match="key 2 of the console") as raised:
        ConfiguredKeys([new_key("reader", "x")[1], line])
    assert not line or line not in str(raised.value)


def test_a_key_opens_what_its_line_says() -> None:
    key, line = new_key("operator+payloads", "on-call")
    keys = ConfiguredKeys([line])
    viewer = keys.enter(key)
    assert viewer is not None
    assert (viewer.name, viewer.payloads, viewer.acts) == ("on-call", True, True)
    assert keys.find(viewer.key) == viewer
    assert keys.enter(line.split()[2]) is None, "the digest is not the key"
    assert keys.enter("\ud800") is None


@pytest.mark.parametrize(("role", "name"), [("tenant", "x"), ("admin", "x"), ("reader", "a b"), ("reader", "")])
def test_no_other_key_is_made(role: str, name: str) -> None:
    with pytest.raises(ConsoleError):
        new_key(role, name)


@pytest.mark.parametrize(
    ("header", "own"),
    [
        *((name, True) for name in ("localhost", "localhost:8787", "127.0.0.1:1", "[::1]:8787", "ops.example", "")),
        *((name, False) for name in ("evil.example", "localhost.evil.example", "a:b:c", "@", "127.0.0.1.evil.example")),
    ],
)
def test_only_own_host_names_are_answered(header: str, own: bool) -> None:
    assert OwnHosts(lambda *_: None, ["ops.example"])._is_own(header) is own  # type: ignore[arg-type, return-value]
    assert OwnHosts(lambda *_: None, ["*"])._is_own(header)  # type: ignore[arg-type, return-value]


def test_a_host_name_that_does_nothing_is_refused() -> None:
    assert allowed(["console.example", "[::1]", "10.0.0.1"], keys=False) == ["console.example", "::1", "10.0.0.1"]
    assert allowed(["*"], keys=True) == ["*"]
    with pytest.raises(ConsoleError, match="needs keys"):
        allowed(["*"], keys=False)
    for name in ("*.example", "https://console.example", "console.example:8787", "", "a b"):
        with pytest.raises(ConsoleError, match="is not a host name"):
            allowed([name], keys=True)

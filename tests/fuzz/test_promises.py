"""The properties that `fuzz/` checks, on input from hypothesis and on inputs that once broke them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import addresses, front, messages, payloads, results
from fuzz.trap import nothing_executed

TARGETS = [messages, addresses, results, payloads, front]

ANY_TEXT = st.text(st.characters(exclude_categories=()))
JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT, st.sampled_from(payloads._WORDS)),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(ANY_TEXT, inner)),
    max_leaves=10,
)
URL_PIECES = st.lists(
    st.sampled_from([*"@:/?#&=%,[]\0 é", "%ff", "%00", "%25", "u", "h", "host=", "password=", "p%61ssword=", "port=",
                     "5432", "99999", "sslmode=", "require", "ssl=", addresses.MARK, "\ud800"])
).map("".join)  # fmt: skip


@pytest.mark.parametrize(
    ("target", "seed"), [pytest.param(one, seed, id=f"{one.__name__}-{n}") for one in TARGETS for n, seed in
                         enumerate(one.SEEDS)]
)  # fmt: skip
def test_what_is_known_to_be_difficult(target: Any, seed: bytes) -> None:
    target.check(seed)


@given(st.binary())
@pytest.mark.parametrize("target", TARGETS, ids=lambda one: one.__name__)
def test_any_bytes(target: Any, data: bytes) -> None:
    target.check(data)


@given(st.dictionaries(st.sampled_from(["id", "eta", "expires", "tenant_id", "compression"]), JSON), JSON, JSON)
def test_a_message_with_anything_in_it_is_delivered_or_buried(headers: dict[str, Any], body: Any, expiry: Any) -> None:
    properties = {"expiration": expiry, "body_encoding": body, "delivery_info": {}}
    payload = json.dumps({"body": body, "content-type": expiry, "headers": headers, "properties": properties})
    messages.check_read(payload)
    messages.check_delivered(payload)


@given(URL_PIECES)
def test_pieces_of_urls(rest: str) -> None:
    addresses.check_text(f"postgresql://{rest}")
    addresses.check_unencoded(rest)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:p@h/d?p%61ssword={addresses.MARK}",
        f"postgresql:///d?host=h&password={addresses.MARK}&user=a@b",
        f"postgresql://u:{addresses.MARK}%ff@h/d",
        f"postgresql://u:{addresses.MARK}\0@h/d",
        "postgresql://u:\ud800@h/d",
        "postgresql://u:p@h/d?options=\ud800",
        "postgresql://u:p@h/d?application_name=%ff",
        "postgresql://u:p@h/d?host%3Dx%20user=y",
        f"postgresql://u:p@h:{'1' * 5000}/d",
        "postgresql://u:p@[h/d",
        "postgresql://u:[p@::1]:5433/d",
        "postgresql://u:p@fe80::1%25eth0/d",
        "postgresql://u:p@a%3a1,b/d",
        "postgresql://u:p@a%2cb:1/d",
        "post\ngresql://u:p@h/d",
        "postgresql://u:p@,/d?port=1,2",
    ],
)
def test_an_address_that_was_misread_once(url: str) -> None:
    addresses.check_text(url)


def test_what_is_not_utf8_is_refused_and_not_replaced() -> None:
    from app.core.dsn import DatabaseURLError, PostgresDSN

    with pytest.raises(DatabaseURLError, match="UTF-8"):
        PostgresDSN.parse("postgresql://u:p%ff@h/d")


@given(*[st.text(min_size=1)] * 5)
def test_all_parts_of_an_address_arrive(user: str, password: str, host: str, database: str, options: str) -> None:
    addresses.check_parts(user, password, host, database, options)


@pytest.mark.parametrize("password", ["a/", "a@", "a?", "a@b/c", "a?b=", "a#", "1/", "a?host=", "@[?=@]/"])
def test_a_password_that_nobody_encoded_is_not_shown(password: str) -> None:
    addresses.check_unencoded(password)


@given(JSON)
@pytest.mark.parametrize("model", payloads.MODELS, ids=lambda model: model.__name__)
def test_payloads(model: Any, value: Any) -> None:
    payloads.check_payload(model, value)
    payloads.check_payload(model, dict.fromkeys(model.model_fields, value))


def test_an_error_about_many_fields_is_short() -> None:
    for model in payloads.MODELS:
        payloads.check_payload(model, {str(number): payloads.MARK for number in range(10_000)})


@given(JSON)
def test_depth_and_members_are_those_of_the_parser(value: Any) -> None:
    for most in range(4):
        front.check_limits(json.dumps(value).encode(), most)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04Nr\x00\x00\x00\x08.",  # room for 2**27 entries
        b"\x80\x04Np99999999\n.",
        b"\x80\x04}N" + b"2\x86" * 40 + b"Ns.",  # a key with 2**40 members
        b"\x80\x04}N" + b"\x94h\x00\x86" + b"".join(b"\x94h%c\x86" % n for n in range(1, 40)) + b"Ns.",
        b"\x80\x04B\xff\xff\xff\x7fx.",  # 2 GB to come
        results.two_equal_sets(40),  # 2**40 comparisons
        results.one_tuple_in_many_keys(2_000),  # 4 million members are hashed in 16 kB
        results.one_tuple_in_many_numbers(2_000),
        results.one_identifier_of_many_parts(40),
        b"\x80\x04]" + b"2\x86" * 27 + b".",  # 671 MB of JSON
        b"\x80\x04" + b"]" * 2_000 + b"a" * 1_999 + b".",  # no encoder goes so deep
        b"\x80\x04\x8b" + (400_000).to_bytes(4, "little") + b"\x7f" * 400_000 + b"2\x86.",
        b"\x80\x04})" + b"\x85" * 100_000 + b"Ns.",  # C's stack overflows where it is hashed
        b"\x80\x04]\x94\x85\x94}h\x01Ns0h\x00Na.",  # grows when its size has been counted
    ],
    ids=[
        *("memo", "memo-text", "twice", "recalled", "bytes", "sets", "tuple-in-keys", "tuple-in-numbers", "identifier"),
        *("whole", "deep-list", "integer", "deep", "late"),
    ],
)
def test_a_pickle_that_would_grow_is_refused_before_it_is_read(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery.exceptions import SecurityError

    from celery_postgres.results import serializer

    def read(self: Any) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(serializer._Reader, "load", read)
    with pytest.raises(SecurityError, match=r"cannot be read: (ValueError|IndexError|KeyError)"):
        serializer.load(data)


@pytest.mark.parametrize("protocol", range(6))
def test_what_occurs_often_is_read(protocol: int) -> None:
    import pickle

    from celery_postgres.results.serializer import load

    row, listed = tuple(range(1000)), [1]
    for value in (
        [row] * 1000,
        tuple([tuple(range(50))] * 1000),
        {(row[:20], number): listed for number in range(3000)},
        [{row[:100], frozenset([row[:100]])}] * 100,
        [listed, {"a": listed}, (listed, listed)],
        {"x" * 1_000_000: "y" * 1_000_000},
    ):
        assert load(pickle.dumps(value, protocol)) == value


def test_a_decimal_of_a_long_integer_is_refused() -> None:
    """Of 200 kB it takes 3 s, of 2 MB five minutes, and nothing interrupts it."""
    from celery.exceptions import SecurityError

    from celery_postgres.results.serializer import load

    number = b"\x8b" + (200_000).to_bytes(4, "little") + b"\x7f" * 200_000
    with pytest.raises(SecurityError, match="not text"):
        load(b"\x80\x04\x8c\x07decimal\x8c\x07Decimal\x93" + number + b"\x85R.")


def test_what_is_stored_is_read_or_refused_at_once() -> None:
    from celery_postgres.errors import UnstorableResultError
    from celery_postgres.results.serializer import dump, load

    for text, count in (("x" * 5_000, 3_000), ("x" * 500, 100_000)):
        value = {(text, number): None for number in range(count)}
        assert load(dump(value)) == value
    longest = "x" * 50_000
    with pytest.raises(UnstorableResultError, match="long text"):
        dump({(longest, number): None for number in range(3_000)})
    number = 1 << 2_000_000
    assert load(dump(number)) == number


def test_the_trap_sees() -> None:
    with pytest.raises(AssertionError, match="open"), nothing_executed(), open("/dev/null"):
        pass

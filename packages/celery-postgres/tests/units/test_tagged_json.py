"""Results as JSON and as pickles, and keys that were chosen to have one hash."""

from __future__ import annotations

import collections
import contextlib
import datetime
import json
import pickle
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured, SecurityError
from celery.result import AsyncResult, GroupResult
from hypothesis import given
from kombu.utils import json as kombu_json

from celery_postgres.results import hash_guard, serializer
from celery_postgres.results.recording import RecordingBackend
from celery_postgres.results.serializer import Pickle, dump, dump_group, load, load_group
from environment.testkit.strategies import VALUES, same

# -- there and back


@pytest.mark.parametrize("form", Pickle)
@given(value=VALUES)
def test_a_plain_value_comes_back_as_it_was_in_every_form(form: Pickle, value: Any) -> None:
    assert same(load(dump(value, form), form), value)


@given(VALUES)
def test_stock_celery_reads_what_is_written_unless_pickles_are_refused(value: Any) -> None:
    """As Celery 5.7 does: JSON, or the pickle of a row that is older."""
    data = dump(value, Pickle.READ)
    read = pickle.loads(data) if data[:1] == b"\x80" else kombu_json.loads(data)  # noqa: S301  # it is our own
    assert same(read, value)


@given(VALUES)
def test_no_pickle_is_written_if_pickles_are_refused(value: Any) -> None:
    json.loads(dump(value, Pickle.REFUSE))


@pytest.mark.parametrize(
    "value",
    [
        {"__type__": "py:set", "__value__": [1]},
        {"__type__": "datetime", "__value__": "x"},
        {"__type__": 5, "__value__": []},
        {"a": {"__type__": "x", "__value__": {"__type__": "y", "__value__": None}}},
        1 << 100_000,
        -(1 << 100_000),
        {1: {2: {(3, None): [{4}]}}},
        {True: 1, None: 2, b"x": 3},
    ],
    ids=["set", "datetime", "number", "inside", "long", "negative", "keys", "odd keys"],
)
@pytest.mark.parametrize("form", Pickle)
def test_a_dict_that_looks_like_a_tag_stays_a_dict(value: Any, form: Pickle) -> None:
    assert same(load(dump(value, form), form), value)


def test_json_values_are_written_as_celery_writes_them() -> None:
    value = {"a": [1, 2.5, None, True, "ü"], "price": Decimal("1.10"), "id": uuid.UUID(int=7), "raw": b"\xff"}
    for form in (Pickle.READ, Pickle.REFUSE):
        assert dump(value, form) == kombu_json.dumps(value).encode()


def test_pickles_are_refused_if_the_option_says_so() -> None:
    for protocol in range(6):
        for read in (load, load_group):
            with pytest.raises(SecurityError, match="no pickle is read"):
                read(pickle.dumps([1], protocol), Pickle.REFUSE)  # type: ignore[operator]
    assert load(b"[1]", Pickle.REFUSE) == [1]


def test_a_group_is_json_unless_pickles_are_written() -> None:
    app = Celery("client", broker="memory://", backend="cache+memory://", set_as_current=False)
    inner = GroupResult("inner", [AsyncResult("c", app=app, parent=AsyncResult("parent", app=app))], app=app)
    group = GroupResult("outer", [AsyncResult("a", app=app), inner], app=app)
    for form in (Pickle.READ, Pickle.REFUSE):
        data = dump_group(group, form)
        assert data == kombu_json.dumps(group.as_tuple()).encode()
        assert load_group(data, form) == json.loads(json.dumps(group.as_tuple()))
    assert dump_group(group)[:1] == b"\x80"


def test_an_unknown_option_value_is_an_error_that_lists_the_known_ones() -> None:
    app = Celery("client", set_as_current=False)
    app.conf.result_backend_transport_options = {"pickle": "never"}
    with pytest.raises(ImproperlyConfigured, match="write, read, refuse"):
        RecordingBackend(app=app, url="postgresql://u@h/d")


# -- types that the program has registered with Kombu


class Money:
    def __init__(self, amount: Decimal) -> None:
        self.amount = amount

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and self.amount == other.amount

    def __hash__(self) -> int:
        return hash(self.amount)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_encoders", "_decoders"):
        monkeypatch.setattr(kombu_json, table, dict(getattr(kombu_json, table)))
    kombu_json.register_type(Money, "money", lambda one: {"amount": one.amount}, lambda given: Money(given["amount"]))


MONEY = Money(Decimal("1.10"))


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("form", Pickle)
@pytest.mark.parametrize(
    "value",
    [MONEY, [MONEY], {"a": MONEY}, (MONEY, (MONEY,)), {MONEY}, {1: {MONEY: MONEY}}, [MONEY, datetime.timedelta(1)]],
    ids=["alone", "list", "dict", "tuple", "set", "keys", "beside"],
)
def test_a_value_of_a_registered_type_comes_back(form: Pickle, value: Any) -> None:
    """In each form: a pickle would name its class, and no reader loads that."""
    assert load(dump(value, form), form) == value


@pytest.mark.usefixtures("registered")
def test_a_value_of_a_registered_type_within_another_comes_back() -> None:
    assert load(dump(collections.OrderedDict(a=[MONEY]))) == {"a": [MONEY]}
    assert dump(MONEY) == kombu_json.dumps(MONEY).encode()


def test_a_program_that_has_not_registered_a_type_is_told_its_mark() -> None:
    data = json.dumps([{"__type__": "money", "__value__": {"amount": "s3cret"}}]).encode()
    with pytest.raises(SecurityError, match=r"marked 'money'.*register") as refused:
        load(data)
    assert "s3cret" not in str(refused.value)


# -- chosen hashes

COUNT = 20_000
#: What has the hash of its number.
MULTIPLES = [number * (2**61 - 1) for number in range(1, COUNT)]


def _integer(number: int) -> bytes:
    data = number.to_bytes(number.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(data)]) + data


def _identifier(number: int) -> bytes:
    return b"h\x00)\x81}\x8c\x03int" + _integer(number) + b"sb"


NUMBERS = [_integer(number) for number in MULTIPLES]
START = b"\x80\x04"
FROZENSET = b"\x8c\x08builtins\x8c\x09frozenset\x93"
HOSTILE: dict[str, Callable[[list[bytes]], bytes]] = {
    "dict": lambda keys: START + b"}(" + b"".join(key + b"N" for key in keys) + b"u.",
    "dict, one by one": lambda keys: START + b"}" + b"".join(key + b"Ns" for key in keys) + b".",
    "dict, of a mark": lambda keys: START + b"(" + b"".join(key + b"N" for key in keys) + b"d.",
    "set": lambda keys: START + b"\x8f(" + b"".join(keys) + b"\x90.",
    "set, in batches": lambda keys: START + b"\x8f" + b"".join(b"(" + key + b"\x90" for key in keys) + b".",
    "frozenset": lambda keys: START + b"(" + b"".join(keys) + b"\x91.",
    "frozenset, called": lambda keys: START + FROZENSET + b"](" + b"".join(keys) + b"e\x85R.",
    "frozenset, made": lambda keys: START + FROZENSET + b"](" + b"".join(keys) + b"e\x85\x81.",
    "inside": lambda keys: START + b"]}(" + b"".join(key + b"N" for key in keys) + b"ua.",
}
KEYS: dict[str, list[bytes]] = {
    "integers": NUMBERS,
    "tuples": [b"\x8c\x01a" + number + b"\x86" for number in NUMBERS],
    "deep tuples": [b"\x8c\x01a" + number + b"\x86\x85\x85" for number in NUMBERS],
    "sets": [b"(" + number + b"\x91" for number in NUMBERS],
}


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("shape", HOSTILE)
def test_keys_with_one_hash_are_refused_before_they_are_compared(
    shape: str, keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = HOSTILE[shape](KEYS[keys])
    for read in (load, load_group):
        with pytest.raises(SecurityError, match="cannot be read"):
            read(data)
    # And what is below the limit is read, by the reader that counts.
    monkeypatch.setattr(serializer, "_COMPARISONS", 0)
    few = HOSTILE[shape](KEYS[keys][: hash_guard.MOST_ALIKE])
    if shape == "frozenset, made":  # no pickle of a frozenset is so
        return
    assert load(few) == pickle.loads(few)  # noqa: S301  # it is our own


def test_uuids_with_one_hash_are_refused() -> None:
    keys = b"".join(_identifier(number) + b"Ns" for number in MULTIPLES[:5_000])
    with pytest.raises(SecurityError, match="cannot be read"):
        load(START + b"\x8c\x04uuid\x8c\x04UUID\x93\x940}" + keys + b".")


def test_keys_with_one_hash_in_json_are_refused() -> None:
    for content in (
        {"__type__": "py:set", "__value__": MULTIPLES},
        {"__type__": "py:frozenset", "__value__": MULTIPLES},
        {"__type__": "py:dict", "__value__": [[number, None] for number in MULTIPLES]},
        [{"__type__": "py:dict", "__value__": [[{"__type__": "py:tuple", "__value__": [n]}, 1] for n in MULTIPLES]}],
    ):
        for form in Pickle:
            with pytest.raises(SecurityError):
                load(json.dumps(content).encode(), form)


@pytest.mark.parametrize("content", ["py:nothing", "py:set", "py:dict", "py:int", "py:timedelta", "uuid", "decimal"])
@pytest.mark.parametrize("value", [None, 5, [[1]], {"a": 1}, [[1, 2, 3]], "x", [{}], [[[], 1]]])
def test_tagged_content_is_read_as_a_value_or_refused(content: str, value: Any) -> None:
    data = json.dumps({"__type__": content, "__value__": value}).encode()
    for form in Pickle:
        with contextlib.suppress(SecurityError):
            load(data, form)


@pytest.mark.parametrize("protocol", range(3, 6))
def test_many_keys_of_every_kind_are_read(protocol: int) -> None:
    day = datetime.date(2020, 1, 1)
    for value in (
        {number: number for number in range(5_000)},
        {-number for number in range(5_000)},
        {(number, "a"): None for number in range(5_000)},
        {uuid.UUID(int=number << 61): None for number in range(3_000)},
        {day + datetime.timedelta(number): None for number in range(3_000)},
        {Decimal(number) / 7: None for number in range(3_000)},
        {frozenset({number, number + 1}) for number in range(3_000)},
        {number / 3: None for number in range(5_000)},
    ):
        assert load(pickle.dumps(value, protocol)) == value
        assert load(dump(value, Pickle.REFUSE), Pickle.REFUSE) == value

"""The serializer of results, without a database."""

from __future__ import annotations

import collections
import datetime
import enum
import io
import os
import pickle
import sys
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, states
from celery.backends.database import DatabaseBackend as Stock
from celery.exceptions import SecurityError
from celery.result import AsyncResult, GroupResult
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_postgres.database.result_store import Outcome
from celery_postgres.errors import UnstorableResultError
from celery_postgres.results.columns import short, text
from celery_postgres.results.recording import RecordingBackend
from celery_postgres.results.serializer import dump, dump_group, load, load_group
from celery_postgres.results.write import collapsed
from environment.testkit.strategies import VALUES, same

# -- there and back


@given(VALUES)
def test_a_plain_value_comes_back_as_it_was(value: Any) -> None:
    assert same(load(dump(value)), value)


@given(VALUES)
def test_written_pickles_name_only_classes_on_the_list(value: Any) -> None:
    class Recorder(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            assert module in ("datetime", "decimal", "uuid", "builtins")
            return super().find_class(module, name)

    Recorder(io.BytesIO(dump(value))).load()


@given(VALUES)
def test_stock_celery_reads_what_is_written(value: Any) -> None:
    assert same(pickle.loads(dump(value)), value)  # noqa: S301  # it is our own


class Colour(enum.StrEnum):
    RED = "red"


class Late(datetime.datetime):
    pass


Record = collections.namedtuple("Record", "x y")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (Colour.RED, "red"),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (Record(1, 2), [1, 2]),
        ([Record(1, Record(2, 3))], [[1, [2, 3]]]),
        (Late(2024, 1, 2, 3), datetime.datetime(2024, 1, 2, 3)),  # noqa: DTZ001
        (True, True),
    ],
)
def test_other_values_are_stored_as_their_json_form(value: Any, read: Any) -> None:
    assert same(load(dump(value)), read)


def test_a_named_time_zone_becomes_its_offset() -> None:
    from zoneinfo import ZoneInfo

    moment = datetime.datetime(2024, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    read = load(dump(moment))
    assert read == moment
    assert read.utcoffset() == datetime.timedelta(hours=2)


class Secretive:
    def __repr__(self) -> str:
        return "s3cret"


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value",
    [Secretive(), [Secretive()], {"a": (Secretive(),)}, {Secretive(): 1}, {Secretive()}, {Record(1, 2)},
     {Record(1, 2): 1}, lambda: 1, open, io.BytesIO(b"s3cret"), Secretive,
     ENDLESS, DEEP, range(3), (n for n in range(3)), 1j],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_unstorable_values_are_refused_and_not_quoted(value: Any) -> None:
    with pytest.raises(UnstorableResultError) as caught:
        dump(value)
    assert "s3cret" not in str(caught.value)


# -- hostile bytes


class Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "os.system": (os.system, ("touch",)),
    "open": (open, ("touched", "w")),
    "eval": (eval, ("open('touched', 'w')",)),
    "exec": (exec, ("open('touched', 'w')",)),
    "getattr": (getattr, ("a", "join")),
    "import": (__import__, ("antigravity",)),
    "pickle.loads": (pickle.loads, (b"",)),
    "a class of Celery": (AsyncResult, ("id",)),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("call", CALLS)
def test_a_pickle_that_calls_something_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    function, arguments = CALLS[call]
    if call == "os.system":
        arguments = (f"touch {tmp_path}/touched",)
    data = pickle.dumps({"deep": [Evil(function, *arguments)]}, protocol=protocol)
    for read in (load, load_group):
        if call == "a class of Celery" and read is load_group:
            continue
        with pytest.raises(SecurityError) as caught:
            read(data)
        assert function.__name__ in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data", [b"", b"x", b".", b"\x80\x04", b"\x80\xff.", b"I1\n", b"P1\n.", b"\x82\x01.", b"(lp0\n."]
)
def test_bytes_that_are_not_a_pickle_are_refused(data: bytes) -> None:
    if data == b"(lp0\n.":
        assert load(data) == []
        return
    with pytest.raises(SecurityError):
        load(data)


NAMES = ["os system", "builtins eval", "builtins getattr", "datetime datetime.__class__", "datetime sys", "uuid os",
         "uuid UUID.__init__", "builtins set.__class__", "celery.result GroupResult.app", "copyreg _reconstructor",
         "functools partial", "operator attrgetter", "celery.result AsyncResult", "datetime date", "decimal Decimal",
         "uuid UUID", "builtins set", "celery.backends.base unpickle_backend"]  # fmt: skip
PUSHES = [b"N", b"\x88", b"K\x01", b"\x8c\x01a", b"]", b"}", b")", b"(", b"\x8f", b"C\x01x", b"I5\n", b"G" + b"\0" * 8]
CALLING = [b"R", b"b", b"\x81", b"\x92", b"o", b"a", b"e", b"s", b"u", b"\x90", b"0", b"2", b"\x94", b"h\x00", b"t",
           b"d", b"\x85", b"\x86", b"\x87", b"\x91", b"1", b"Q", b"l", b"P1\n", b"\x82\x01",
           b"\x97", b"\x98"]  # fmt: skip
PIECES = st.one_of(
    st.sampled_from(NAMES).map(lambda name: b"c" + name.replace(" ", "\n").encode() + b"\n"),
    st.sampled_from(NAMES).map(lambda name: b"i" + name.replace(" ", "\n").encode() + b"\n"),
    st.sampled_from(NAMES).map(
        lambda name: b"".join(b"\x8c" + bytes([len(one)]) + one.encode() for one in name.split(" ")) + b"\x93"
    ),
    st.sampled_from(PUSHES),
    st.sampled_from(CALLING),
)

#: What a pickle could have changed of the classes that it may name.
WATCHED = (
    datetime.date,
    datetime.datetime,
    datetime.timezone,
    Decimal,
    uuid.UUID,
    set,
    frozenset,
    GroupResult,
    AsyncResult,
)


@settings(max_examples=400)
@given(st.lists(PIECES, min_size=1, max_size=25))
def test_no_pickle_calls_anything_beyond_the_list(pieces: list[bytes]) -> None:
    before = [dict(vars(one)) for one in WATCHED]
    modules = set(sys.modules)
    allowed = (
        type(None), bool, int, float, str, bytes, list, dict, tuple, set, frozenset, datetime.date, datetime.time,
        datetime.timedelta, datetime.timezone, Decimal, uuid.UUID, type, bytearray,
    )  # fmt: skip
    for read in (load, load_group):
        try:
            value = read(b"\x80\x04" + b"".join(pieces) + b".")
        except SecurityError:
            continue
        assert isinstance(value, allowed) or type(value).__name__ == "_StandIn"
        assert not isinstance(value, type) or value in (datetime.date, datetime.datetime, Decimal, uuid.UUID, set)
    assert [dict(vars(one)) for one in WATCHED] == before
    assert set(sys.modules) == modules


# -- groups


@pytest.fixture
def app() -> Celery:
    return Celery("client", broker="memory://", backend="cache+memory://", set_as_current=False)


def tree(app: Celery) -> GroupResult:
    parent = AsyncResult("parent", app=app)
    inner = GroupResult("inner", [AsyncResult("c", app=app, parent=parent)], app=app)
    return GroupResult("outer", [AsyncResult("a", app=app), inner, AsyncResult("b", app=app)], app=app)


def test_a_group_keeps_its_tree(app: Celery) -> None:
    group = tree(app)
    assert load_group(dump_group(group)) == group.as_tuple()


def test_a_group_saved_by_stock_celery_is_read(app: Celery) -> None:
    from sqlalchemy.pool import NullPool

    stock = Celery("stock", broker="memory://", set_as_current=False)
    stock._backend = Stock(app=stock, dburi="sqlite://", engine_options={"poolclass": NullPool})
    group = tree(stock)
    assert load_group(pickle.dumps(group)) == group.as_tuple()


def test_a_saved_group_contains_nothing_of_the_backend() -> None:
    app = Celery("client", backend="db+sqlite://u:s3cret@nowhere/1", set_as_current=False)
    app._backend = RecordingBackend(app=app, url="postgresql://u:s3cret@nowhere/d")
    data = dump_group(GroupResult("g", [AsyncResult("a", app=app)], app=app))
    assert b"s3cret" not in data
    assert b"nowhere" not in data


# -- outcomes


def outcome(state: str, task_id: str = "a", result: bytes = b"") -> Outcome:
    return Outcome(task_id, state, result, None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([states.STARTED, states.SUCCESS], states.SUCCESS),
        ([states.SUCCESS, states.STARTED], states.SUCCESS),
        ([states.SUCCESS, states.FAILURE], states.SUCCESS),
        ([states.FAILURE, states.SUCCESS], states.SUCCESS),
        ([states.FAILURE, states.RETRY], states.FAILURE),
        ([states.REVOKED, states.RETRY], states.REVOKED),
        ([states.RETRY, states.FAILURE], states.FAILURE),
        ([states.STARTED, "PROGRESS"], "PROGRESS"),
        ([states.FAILURE, states.STARTED], states.STARTED),
    ],
)
def test_several_states_of_a_task_collapse_to_the_one_that_counts(given: list[str], kept: str) -> None:
    (one,) = collapsed(map(outcome, given))
    assert one.status == kept


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(sorted(states.ALL_STATES)))))
def test_collapsing_leaves_one_state_for_each_task(given: list[tuple[str, str]]) -> None:
    kept = collapsed(outcome(state, task_id) for task_id, state in given)
    assert sorted(one.task_id for one in kept) == sorted({task_id for task_id, _ in given})
    for one in kept:
        if (one.task_id, states.SUCCESS) in given:
            assert one.status == states.SUCCESS


@given(st.text(st.characters(exclude_categories=())))
def test_text_becomes_what_postgresql_can_store(value: str) -> None:
    assert "\0" not in text(value)
    text(value).encode()
    assert len(short(value) or "") <= 155

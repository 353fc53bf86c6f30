"""The canvas through workers of every pool: the values, in their shape and order, and each body once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import celery
import pytest
from celery import chain, chord, group, signature
from celery.canvas import chunks, xmap, xstarmap
from celery.exceptions import ChordError, CPendingDeprecationWarning, TaskRevokedError, TimeoutError
from celery.result import AsyncResult, GroupResult, ResultSet

from celery_postgres.readmodel import ReadModel
from environment.testkit.canvas import answer, chords_gone, count, drained, stored
from environment.testkit.probe import DEADLINE_S, Probe, before_due, unique
from environment.testkit.tables import scalar
from environment.waiting import wait_until


class Canvas:
    """Signatures of the probe's tasks, bound to its client."""

    def __init__(self, pool: Probe) -> None:
        self.pool = pool
        self.app = pool.app

    def __call__(self, task: str, *args: Any, **options: Any) -> Any:
        return signature(f"probe.{task}", args=args, app=self.app, **options)

    def add(self, *numbers: int) -> Any:
        return self("add", *numbers)

    def adds(self, size: int) -> list[Any]:
        """Parts that return 1, 2, …"""
        return [self.add(number, 1) for number in range(size)]

    @property
    def total(self) -> Any:
        return self("total")

    def body(self, tag: str) -> Any:
        """A body that returns its argument, and notes that it ran."""
        return self("body", kwargs={"tag": tag})

    def fail(self, word: str = "on request") -> Any:
        return self("raise_error", word, kwargs={"kind": "value"})


@pytest.fixture
def canvas(pool: Probe) -> Canvas:
    return Canvas(pool)


def ran_once(pool: Probe, tag: str) -> None:
    """The body ran once, and no row of the chord is left."""
    chords_gone(pool.url)
    drained(pool)
    assert len(pool.notes("body", tag)) == 1


# -- chains and groups


def test_what_ran_is_shown_as_a_tree(canvas: Canvas) -> None:
    """A chain whose second step is a chord: the read model finds all of it from each task."""
    first, parts = canvas.add(1, 1), [canvas.add(number) for number in range(2)]
    result = chain(first, chord(parts, canvas.total)).apply_async()
    answer(result)
    drained(canvas.pool)
    with closing(ReadModel(canvas.pool.url)) as model:
        found = model.task(result.id)
        assert found is not None
        tree = model.canvas(found)
        assert tree is not None
        assert {one.name for one in tree.members} == {"probe.add", "probe.total"}
        assert len(tree.members) == 4
        assert {str(one.state) for one in tree.members} == {"succeeded"}
        assert [one.depth for one in tree.members][:2] == [0, 1]
        for one in tree.members:
            again = model.task(str(one.task_id))
            assert again is not None
            assert model.canvas(again) == tree


def test_a_chain(canvas: Canvas) -> None:
    result = chain(canvas.add(1, 1), canvas.add(3), canvas.add(10)).apply_async()
    assert answer(result) == 15
    assert answer(result.parent) == 5
    assert answer(result.parent.parent) == 2


def test_a_failing_task_fails_the_rest_of_its_chain(canvas: Canvas) -> None:
    result = chain(canvas.add(1, 1), canvas("raise_error", kwargs={"kind": "value"}), canvas.add(3)).apply_async()
    with pytest.raises(ValueError, match="2"):
        answer(result.parent)
    with pytest.raises(ValueError, match="2"):
        answer(result)


@pytest.mark.parametrize("size", [1, 2, 50])
def test_a_group(canvas: Canvas, size: int) -> None:
    result = group(canvas.adds(size)).apply_async()
    assert answer(result) == list(range(1, size + 1))
    assert result.successful()
    assert result.completed_count() == size


def test_every_way_to_join_a_group_returns_its_values(canvas: Canvas) -> None:
    result = group(canvas.adds(10)).apply_async()
    expected = list(range(1, 11))
    assert result.join(timeout=DEADLINE_S) == expected
    assert result.join_native(timeout=DEADLINE_S) == expected
    fresh = GroupResult(result.id, [canvas.app.AsyncResult(one.id) for one in result.results], app=canvas.app)
    came = dict(fresh.iter_native(timeout=DEADLINE_S))
    assert {task_id: meta["result"] for task_id, meta in came.items()} == {
        one.id: number for one, number in zip(result.results, expected, strict=True)
    }
    seen: list[Any] = []
    fresh = GroupResult(result.id, [canvas.app.AsyncResult(one.id) for one in result.results], app=canvas.app)
    fresh.join_native(timeout=DEADLINE_S, callback=lambda task_id, value: seen.append(value))
    assert sorted(seen) == expected


def test_a_group_raises_an_error_or_returns_it(canvas: Canvas) -> None:
    result = group(canvas.add(1), canvas.fail("wrong"), canvas.add(2)).apply_async()
    with pytest.raises(ValueError, match="wrong"):
        answer(result)
    one, error, two = result.join_native(timeout=DEADLINE_S, propagate=False)
    assert (one, two) == (1, 2)
    assert isinstance(error, ValueError)
    assert result.failed()
    assert not result.successful()


def test_a_group_that_does_not_end_in_time_times_out(pool: Probe, canvas: Canvas) -> None:
    gate = unique("gate")
    result = group(canvas.add(1), canvas("run", unique("held"), gate)).apply_async()
    try:
        with pytest.raises(TimeoutError):
            result.get(timeout=0.2)
    finally:
        pool.open(gate)
    assert answer(result)[0] == 1


def test_a_result_set_of_tasks_groups_and_chords(pool: Probe, canvas: Canvas) -> None:
    results = [canvas.add(number).apply_async() for number in range(5)]
    together = ResultSet(results, app=canvas.app)
    assert answer(together) == [0, 1, 2, 3, 4]
    together = ResultSet([], app=canvas.app)
    for one in results:
        together.add(one)
    assert sorted(answer(together)) == [0, 1, 2, 3, 4]
    assert together.ready()


def test_callbacks_of_then(canvas: Canvas) -> None:
    single = canvas.add(1, 2).apply_async()
    came: list[Any] = []
    single.then(lambda result: came.append(result.result))
    assert answer(single) == 3
    assert came == [3]
    several = group(canvas.adds(3)).apply_async()
    several.then(lambda result: came.append(sorted(result.join())))
    assert answer(several) == [1, 2, 3]
    assert came[1:] == [[1, 2, 3]]


def test_a_saved_group_is_restored_and_deleted(pool: Probe, canvas: Canvas) -> None:
    result = group(canvas.adds(3)).apply_async()
    result.save()
    restored = GroupResult.restore(result.id, app=canvas.app)
    assert restored == result
    assert answer(restored) == [1, 2, 3]
    assert count(pool.url, "celery_tasksetmeta") >= 1
    result.delete()
    canvas.app.backend._cache.clear()
    assert GroupResult.restore(result.id, app=canvas.app) is None


def test_a_group_in_a_group(canvas: Canvas) -> None:
    nested = group(canvas.add(1), group(canvas.add(2), canvas.add(3)), canvas.add(4))
    assert answer(nested.apply_async()) == [1, 2, 3, 4]


def test_map_starmap_and_chunks(canvas: Canvas) -> None:
    app, add = canvas.app, signature("probe.add", app=canvas.app)
    total = signature("probe.total", app=app)
    assert answer(xmap(total, [[1, 2], [3, 4]], app=app).apply_async()) == [3, 7]
    assert answer(xstarmap(add, [[1, 2], [3, 4]], app=app).apply_async()) == [3, 7]
    made = chunks(add, [(number, number) for number in range(10)], 3, app=app).group().apply_async()
    assert answer(made) == [[0, 2, 4], [6, 8, 10], [12, 14, 16], [18]]


# -- chords

Make = Callable[[Canvas, str], Any]
CHORDS: dict[str, tuple[Make, Any]] = {
    "of one": (lambda c, t: chord(c.adds(1), c.body(t)), [1]),
    "of two": (lambda c, t: chord(c.adds(2), c.body(t)), [1, 2]),
    "of a hundred": (lambda c, t: chord(c.adds(100), c.body(t)), list(range(1, 101))),
    "header from a generator": (lambda c, t: chord((c.add(n) for n in range(3)), c.body(t)), [0, 1, 2]),
    "chains in the header": (lambda c, t: chord([c.add(1) | c.add(1), c.add(2) | c.add(2)], c.body(t)), [2, 4]),
    "a group in the header": (
        lambda c, t: chord([c.add(1), group(c.add(2), c.add(3)), c.add(4)], c.body(t)),
        [1, 2, 3, 4],
    ),
    "groups in a group in the header": (
        lambda c, t: chord(group(group(c.add(1), c.add(2)), group(c.add(3), group(c.add(4), c.add(5)))), c.body(t)),
        [1, 2, 3, 4, 5],
    ),
    "a chain that ends in a group in the header": (
        lambda c, t: chord([c.add(1) | group(c.add(1), c.add(2)), c.add(9)], c.body(t)),
        [[2, 3], 9],
    ),
    "a chord in the header": (
        lambda c, t: chord([chord(c.adds(3), c.total), chord(c.adds(2), c.total), c.add(7)], c.body(t)),
        [6, 3, 7],
    ),
    "chords three deep": (
        lambda c, t: chord([chord([chord(c.adds(2), c.total), c.add(1)], c.total), c.add(1)], c.body(t)),
        [4, 1],
    ),
    "in a chain": (lambda c, t: c.add(1) | group(c.add(1), c.add(2)) | c.body(t), [2, 3]),
    "two in a chain": (
        lambda c, t: group(c.adds(2)) | c.total | group(c.add(1), c.add(2)) | c.body(t),
        [4, 5],
    ),
    "body is a chain": (lambda c, t: chord(c.adds(3), c.total | c.add(10) | c.body(t)), 16),
    "body is a chord": (lambda c, t: chord(c.adds(3), chord([c.total, c.total], c.body(t))), [6, 6]),
    "a part that is replaced by a task": (
        lambda c, t: chord([c("replace_with_task", 1), c.add(2)], c.body(t)),
        [101, 2],
    ),
    "a part that is replaced by a chain": (
        lambda c, t: chord([c("replace_with_chain", 1), c.add(2)], c.body(t)),
        [1001, 2],
    ),
    "a part that is replaced by a group": (
        lambda c, t: chord([c("replace_with_group", 1, 2), c.add(2)], c.body(t)),
        [[101, 102], 2],
    ),
    "a part that is retried": (
        lambda c, t: chord([c("again_add", 1), c("again_add", 2), c.add(3)], c.body(t)),
        [1, 2, 3],
    ),
    "parts with ignored results": (
        lambda c, t: chord([c.add(1).set(ignore_result=True), c.add(2).set(ignore_result=True)], c.body(t)),
        [1, 2],
    ),
    "a part that adds another": (lambda c, t: chord([c("one_more", 1), c.add(2)], c.body(t)), [1, 2, 1001]),
    "values of all kinds": (lambda c, t: chord([c("echo", {"ü": None}), c("echo", [1.5, "a\x00b"])], c.body(t)), None),
}


#: Those whose values come in an order that is Celery's.
FLAT = {"a group in the header", "groups in a group in the header", "a part that adds another"}


@pytest.mark.parametrize("kind", CHORDS)
def test_a_chord(pool: Probe, canvas: Canvas, kind: str) -> None:
    make, expected = CHORDS[kind]
    if kind == "a part that is replaced by a group" and celery.VERSION < (5, 6):
        pytest.skip("before Celery 5.6 all members of such a group get the place of the part: their order is open")
    if kind == "values of all kinds":
        expected = [{"ü": None}, [1.5, "a\x00b"]]
    tag = unique("body")
    result = make(canvas, tag).apply_async()
    if kind in FLAT:
        # Celery unrolls groups of a header, each from its end.
        assert sorted(answer(result)) == expected
        ran_once(pool, tag)
        return
    assert answer(result) == expected
    if kind != "of one":  # Celery makes a chain of it
        ran_once(pool, tag)


def test_a_group_as_the_body_of_a_chord(pool: Probe, canvas: Canvas) -> None:
    result = chord(canvas.adds(3), group(canvas.total, canvas.body(unique("body")))).apply_async()
    assert answer(result) == [6, [1, 2, 3]]
    chords_gone(pool.url)


def test_an_empty_chord_calls_its_body_with_an_empty_list(canvas: Canvas) -> None:
    assert answer(chord([], canvas.total).apply_async()) == 0


def test_a_group_that_replaces_a_task(canvas: Canvas) -> None:
    assert answer(canvas("replace_with_group", 1, 2).apply_async()) == [101, 102]


@pytest.mark.parametrize("task", ["replace_with_task", "replace_with_chain"])
def test_a_replaced_task_returns_the_value_of_its_replacement(canvas: Canvas, task: str) -> None:
    expected = {"replace_with_task": 103, "replace_with_chain": 1003}[task]
    assert answer(canvas(task, 1, 2).apply_async()) == expected
    assert answer((canvas(task, 1, 2) | canvas.add(1)).apply_async()) == expected + 1


def test_links(pool: Probe, canvas: Canvas) -> None:
    tag = unique("linked")
    first = canvas.add(1, 2)
    first.link(canvas("note_it", kwargs={"tag": tag}, immutable=False).clone(args=(), kwargs={"tag": tag}))
    result = canvas("echo", tag).apply_async(link=canvas("note_it"))
    assert answer(result) == tag
    (ran,) = pool.wait_for("ran", tag)
    assert ran["value"] == "None"


# -- errors


def alone(result: Any) -> Any:
    """The same result without its parents, whose errors come first: for the outcome of the body itself."""
    return result.app.AsyncResult(result.id)


def errors_of(pool: Probe, tag: str) -> list[dict[str, Any]]:
    return pool.wait_for("errback", tag)


def test_an_errback_of_the_old_style_reads_the_failed_result(pool: Probe, canvas: Canvas) -> None:
    tag = unique("errback")
    result = canvas.fail().apply_async(link_error=canvas("errback_old", kwargs={"tag": tag}))
    (seen,) = errors_of(pool, tag)
    assert (seen["id"], seen["state"]) == (result.id, "FAILURE")


def test_an_errback_of_the_new_style(pool: Probe, canvas: Canvas) -> None:
    tag = unique("errback")
    result = canvas.fail("words").apply_async(link_error=canvas("errback", kwargs={"tag": tag}))
    (seen,) = errors_of(pool, tag)
    assert (seen["id"], seen["error"], seen["text"]) == (result.id, "ValueError", "words")


@pytest.mark.parametrize("size", [2, 20])
def test_an_error_in_the_header_fails_the_body(pool: Probe, canvas: Canvas, size: int) -> None:
    tag, body = unique("errback"), unique("body")
    made = chord(
        [canvas.fail("wrong"), *canvas.adds(size)], canvas.body(body).on_error(canvas("errback", kwargs={"tag": tag}))
    )
    result = made.apply_async()
    with pytest.raises(ChordError, match="wrong"):
        answer(alone(result))
    assert result.state == "FAILURE"
    (seen,) = errors_of(pool, tag)
    assert seen["error"] == "ChordError"
    chords_gone(pool.url)
    drained(pool)
    assert pool.notes("body", body) == []


def test_an_error_in_the_header_calls_an_old_errback_of_the_body(pool: Probe, canvas: Canvas) -> None:
    tag = unique("errback")
    body = canvas.body(unique("body")).on_error(canvas("errback_old", kwargs={"tag": tag}))
    result = chord([canvas.fail(), canvas.add(1)], body).apply_async()
    (seen,) = errors_of(pool, tag)
    assert seen["id"] == result.id
    with pytest.raises(ChordError):
        answer(alone(result))


FAILING: dict[str, Make] = {
    "in a chord in the header": lambda c, t: chord([chord([c.fail("wrong"), c.add(1)], c.total), c.add(1)], c.body(t)),
    "in a chord three deep": lambda c, t: chord(
        [chord([chord([c.fail("wrong"), c.add(1)], c.total), c.add(1)], c.total), c.add(1)], c.body(t)
    ),
    "in the body of a chord in the header": lambda c, t: chord(
        [chord(c.adds(2), c("raise_error", kwargs={"kind": "value"})), c.add(1)], c.body(t)
    ),
    "in a chain in the header": lambda c, t: chord([c.fail("wrong") | c.add(1) | c.add(2), c.add(1)], c.body(t)),
    "in a group in the header": lambda c, t: chord([group(c.fail("wrong"), c.add(1)), c.add(1)], c.body(t)),
    "before a chord in a chain in the header": lambda c, t: chord(
        [c.fail("wrong") | group(c.add(1), c.add(2)) | c.total, c.add(1)], c.body(t)
    ),
    "before a chain's body": lambda c, t: chord([c.fail("wrong"), c.add(1)], c.total | c.body(t)),
    "before a chord as a body": lambda c, t: chord([c.fail("wrong"), c.add(1)], chord([c.total, c.total], c.body(t))),
    "with a header and an unknown task as a body": lambda c, t: chord(
        [c.fail("wrong"), c.add(1)], signature("nobody.knows.this", app=c.app)
    ),
    "a value that cannot be stored": lambda c, t: chord([c("opaque"), c.add(1)], c.body(t)),
    "in a replaced part": lambda c, t: chord([c("replace_with_task", "text"), c.add(1)], c.body(t)),
}


@pytest.mark.parametrize("kind", FAILING)
def test_an_error_anywhere_reaches_the_last_body(pool: Probe, canvas: Canvas, kind: str) -> None:
    tag = unique("body")
    result = FAILING[kind](canvas, tag).apply_async()
    with pytest.raises(ChordError):
        answer(alone(result))
    chords_gone(pool.url)
    assert pool.notes("body", tag) == []


#: What `get()` raises, and what `get(follow_parents=False)`: as with Celery's Redis backend, but where that waits for
#: ever.
RAISED: dict[str, tuple[Make, type, type]] = {
    "first of a header": (lambda c, t: chord([c.fail(), c.add(1)], c.body(t)), ValueError, ChordError),
    "last of a header": (lambda c, t: chord([c.add(1), c.fail()], c.body(t)), ValueError, ChordError),
    "all of a header": (lambda c, t: chord([c.fail(), c.fail()], c.body(t)), ValueError, ChordError),
    "group | task": (lambda c, t: group(c.fail(), c.add(1)) | c.body(t), ValueError, ChordError),
    "group of one | task": (lambda c, t: group(c.fail()) | c.body(t), ValueError, ChordError),
    "group | task | task": (lambda c, t: group(c.add(1), c.fail()) | c.total | c.body(t), ValueError, ChordError),
    "group | the task that fails": (
        lambda c, t: group(c.add(1), c.add(2)) | c("raise_error", kwargs={"kind": "value"}),
        ValueError,
        ValueError,
    ),
    "group | group | task": (
        lambda c, t: group(c.fail(), c.add(1)) | group(c.total, c.total) | c.body(t),
        ValueError,
        ChordError,
    ),
    "task that fails | group | task": (
        lambda c, t: c.fail() | group(c.add(1), c.add(2)) | c.body(t),
        ValueError,
        ValueError,
    ),
    "task | group | task": (lambda c, t: c.add(1) | group(c.add(1), c.fail()) | c.body(t), ValueError, ChordError),
    "chord | task": (lambda c, t: chord([c.fail(), c.add(1)], c.total) | c.body(t), ValueError, ChordError),
    "before a chain as body": (lambda c, t: chord([c.add(1), c.fail()], c.total | c.body(t)), ValueError, ChordError),
    "before a chord as body": (
        lambda c, t: chord([c.add(1), c.fail()], chord([c.total, c.total], c.body(t))),
        ValueError,
        ChordError,
    ),
    "in the header of a chord as body": (
        lambda c, t: chord([c.add(1), c.add(2)], chord([c.total, c.fail()], c.body(t))),
        ChordError,
        ChordError,
    ),
    "in a chain in the header": (
        lambda c, t: chord([c.fail() | c.add(1), c.add(1)], c.body(t)),
        ValueError,
        ChordError,
    ),
    "in a group in the header": (
        lambda c, t: chord([group(c.add(1), c.fail()), c.add(1)], c.body(t)),
        ValueError,
        ChordError,
    ),
    "in a chord in the header": (
        lambda c, t: chord([chord([c.fail(), c.add(1)], c.total), c.add(1)], c.body(t)),
        ChordError,
        ChordError,
    ),
    "before a group as body": (
        lambda c, t: chord([c.fail(), c.add(1)], group(c.body(t), c.body(t))),
        ValueError,
        ValueError,
    ),
}


@pytest.mark.parametrize("kind", RAISED)
def test_the_same_error_is_raised_as_with_redis(canvas: Canvas, kind: str) -> None:
    make, raised, alone = RAISED[kind]
    result = make(canvas, unique("body")).apply_async()
    with pytest.raises(raised):
        answer(result)
    again = make(canvas, unique("body")).apply_async()
    options = {} if isinstance(again, ResultSet) else {"follow_parents": False}
    with pytest.raises(alone):
        answer(again, **options)
    if not options:
        return
    error = answer(again, propagate=False)
    assert isinstance(error, alone)
    if alone is ChordError:
        assert "Dependency" in str(error)


def test_a_client_that_already_waits_gets_the_error_of_the_part(pool: Probe, canvas: Canvas) -> None:
    gate = unique("gate")
    result = chord(
        [canvas("run", unique("part"), gate) | canvas.fail("wrong"), canvas.add(1)], canvas.total
    ).apply_async()

    def open_when_noted() -> None:
        noted = "SELECT count(*) FROM celery_waiter WHERE task_id = :t"
        wait_until(lambda: scalar(pool.url, noted, t=result.id) == 1, DEADLINE_S, "the waiter to be noted")
        pool.open(gate)

    opener = threading.Thread(target=open_when_noted)
    opener.start()
    try:
        with pytest.raises(ValueError, match="wrong"):
            answer(result)
    finally:
        opener.join(2 * DEADLINE_S)


NESTED: dict[str, Callable[[Canvas, Any, Any], Any]] = {
    "one": lambda c, inner, body: chord([chord([c.fail(), c.add(1)], inner), c.add(1)], body),
    "two": lambda c, inner, body: chord(
        [chord([c.fail(), c.add(1)], inner), chord([c.add(1), c.fail()], c.total)], body
    ),
    "three deep": lambda c, inner, body: chord(
        [chord([chord([c.fail(), c.add(1)], inner), c.add(1)], c.total), c.add(1)], body
    ),
    "in a chain": lambda c, inner, body: chord([c.add(1) | group(c.add(1), c.fail()) | inner, c.add(1)], body),
}


@pytest.mark.parametrize("kind", NESTED)
def test_an_errback_of_an_outer_chord_runs_once(pool: Probe, canvas: Canvas, kind: str) -> None:
    tag, own = unique("errback"), unique("errback")
    inner = canvas.total.on_error(canvas("errback", kwargs={"tag": own}))
    outer = NESTED[kind](canvas, inner, canvas.total)
    with pytest.warns(CPendingDeprecationWarning):  # of the errbacks that headers may have one day
        outer.link_error(canvas("errback", kwargs={"tag": tag}))
    result = outer.apply_async()
    assert isinstance(answer(result, propagate=False), ChordError)
    (seen,) = errors_of(pool, tag)
    assert seen["id"] == result.id
    chords_gone(pool.url)
    drained(pool)
    assert len(pool.notes("errback", tag)) == 1
    assert len(pool.notes("errback", own)) == 1


def test_an_error_in_the_header_fails_every_task_of_a_group_as_body(pool: Probe, canvas: Canvas) -> None:
    tag = unique("body")
    result = chord([canvas.fail("wrong"), canvas.add(1)], group(canvas.body(tag), canvas.body(tag))).apply_async()
    for one in result.results:
        assert isinstance(answer(one, propagate=False), ValueError)
    chords_gone(pool.url)
    assert pool.notes("body", tag) == []


def test_each_task_of_a_group_as_body_calls_its_own_errbacks_and_the_chords(pool: Probe, canvas: Canvas) -> None:
    own, both, body = unique("errback"), unique("errback"), unique("body")
    first = canvas.body(body).on_error(canvas("errback", kwargs={"tag": own}))
    workflow = chord([canvas.fail("wrong"), canvas.add(1)], group(first, canvas.body(body)))
    with pytest.warns(CPendingDeprecationWarning):  # of the errbacks that headers may have one day
        workflow.link_error(canvas("errback", kwargs={"tag": both}))
    result = workflow.apply_async()
    for one in result.results:
        assert isinstance(answer(one, propagate=False), ValueError)
    chords_gone(pool.url)
    drained(pool)
    assert len(pool.notes("errback", own)) == 1
    assert len(pool.notes("errback", both)) == 2


def test_a_revoked_part_fails_the_body(pool: Probe, canvas: Canvas) -> None:
    tags: list[str] = []

    def send(countdown_s: float) -> AsyncResult:
        tags.append(unique("body"))
        part = canvas.add(1).set(countdown=countdown_s)
        return chord([part, canvas.add(2)], canvas.body(tags[-1])).apply_async()

    result = before_due(send, lambda sent: pool.control(pool.worker, "revoke", sent.parent.results[0].id))
    with pytest.raises(ChordError):
        answer(alone(result))
    assert isinstance(answer(result.parent.results[0], propagate=False), TaskRevokedError)
    chords_gone(pool.url)
    assert pool.notes("body", tags[-1]) == []


def test_parts_with_ignored_results_leave_no_rows(pool: Probe, canvas: Canvas) -> None:
    parts = [canvas.add(number).set(ignore_result=True) for number in range(3)]
    result = chord(parts, canvas.total).apply_async()
    assert answer(result) == 3
    assert [stored(pool.url, part.id) for part in result.parent.results] == [None, None, None]


def test_a_body_for_an_undeclared_queue_is_sent(pool: Probe, canvas: Canvas) -> None:
    queue, tag = unique("queue"), unique("body")
    result = chord(canvas.adds(2), canvas.body(tag).set(queue=queue)).apply_async()
    statement = "SELECT count(*) FROM kombu_message AS m JOIN kombu_queue AS q ON q.id = m.queue_id WHERE q.name = :q"
    wait_until(lambda: scalar(pool.url, statement, q=queue) == 1, DEADLINE_S, "the body")
    pool.control(pool.worker, "add_consumer", queue)
    assert answer(result) == [1, 2]
    pool.control(pool.worker, "cancel_consumer", queue)


@pytest.mark.parametrize("options", [{"countdown": 0.3}, {"priority": 9}, {"expires": 3600}], ids=str)
def test_a_body_keeps_its_options(pool: Probe, canvas: Canvas, options: dict[str, Any]) -> None:
    assert answer(chord(canvas.adds(2), canvas.total.set(**options)).apply_async()) == 3
    chords_gone(pool.url)


def test_many_small_chords_have_one_body_each(pool: Probe, canvas: Canvas) -> None:
    name = unique("body")
    results = [chord(canvas.adds(3), canvas.body(f"{name}-{number}")).apply_async() for number in range(30)]
    assert [answer(one) for one in results] == [[1, 2, 3]] * 30
    chords_gone(pool.url)
    drained(pool)
    assert len(pool.notes("body", f"{name}-*")) == 30


def test_the_result_of_a_chord_leads_to_its_parts(canvas: Canvas) -> None:
    result = chord(canvas.adds(3), canvas.total).apply_async()
    assert answer(result) == 6
    assert isinstance(result, AsyncResult)
    assert sorted(answer(part) for part in result.parent.results) == [1, 2, 3]
    rebuilt = canvas.app.AsyncResult(result.id)
    assert answer(rebuilt) == 6

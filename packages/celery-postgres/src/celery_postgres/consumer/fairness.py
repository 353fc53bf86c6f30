"""The fair queues of one Kombu connection: which keys have messages, and whose turn it is."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

from celery_postgres.consumer.ended_transactions import EndedTransactions
from celery_postgres.consumer.fair_ring import FairRing, Taken
from celery_postgres.consumer.server_clock import ServerClock
from celery_postgres.database.fair_store import BEGINNING, FairStore, Look
from celery_postgres.database.flow import Turns
from celery_postgres.database.message_store import Claim, ClaimedMessage, ClaimResult


class _Keys:
    """The keys of one queue, and how far the walk through them has come.

    Attributes:
        walked: all keys were read once.
        rounds: so often the walk is to come to its end at its usual pace: there may be a key that no look has found.
        failed: whether the next claim may bring a message that has failed before. Not twice in a row: it comes alone,
            and a key whose messages all fail would keep the others waiting.
    """

    def __init__(self) -> None:
        self.ring = FairRing()
        self.cursor = BEGINNING
        self.next_page = 0.0
        self.walked = False
        self.rounds = 1
        self.failed = True

    @property
    def walking(self) -> bool:
        """Whether no known key may have its turn, and others are not read yet."""
        return self.cursor != BEGINNING and not self.ring


class Fairness:
    """Used by the connection's thread, except `look` and `any_closed`.

    A claim is either by the turns of one fair queue or from everything else: the queues that are not fair, and messages
    without a key.
    """

    #: While keys have messages, the newest ones are looked at so often: a key that had none waits for that.
    NEWEST_S = 0.05
    #: A message is looked for again, by its id, so long after a greater id was seen: it may be committed until then.
    #: What comes later, a page finds.
    LATE_S = 0.15
    #: What looking for the newest takes: one part in so many of the time, as long as twice `NEWEST_S` allow that.
    NEWEST_SHARE = 20
    #: A page of the keys is read so often, and takes one part in so many of the time.
    PAGE_S, PAGE_SHARE = 0.25, 20
    #: A page comes so many times later while there is no reason to believe that a key was missed.
    CALM = 4
    #: The same until all keys were read once: those on the first pages would have all the turns.
    WALK_SHARE = 3
    #: Known keys of a queue from which on no page is read, and a key that has had its turn is forgotten until one is.
    MOST = FairRing.MOST
    #: While keys have messages, and the latest claim from everything else brought nothing, the next comes so late. It
    #: takes one part in so many of the time, as long as four times `REST_S` allow that.
    REST_S, REST_SHARE = 0.05, 50
    #: What was claimed here is kept until a key is closed, which is to be asked again after an ack, or until there is
    #: so much of it.
    RUNNING = 1000

    def __init__(self, store: FairStore, holds: Callable[[Claim], bool]) -> None:
        """No fair queue yet.

        Args:
            holds: whether a claim is neither acknowledged nor released.
        """
        self._store = store
        self._holds = holds
        self._keys: dict[int, _Keys] = {}
        #: The greatest ids of the latest looks, each with its time; the first is older than `LATE_S`.
        self._greatest_ids: deque[tuple[float, int]] = deque([(0.0, 0)])
        #: The looks may miss what those have published that ran for as long as `LATE_S`, or nearly.
        self._ended = EndedTransactions(self.LATE_S - 0.1)
        self._next_newest = self._others_at = self._brought_at = 0.0
        self._others_were_next = False
        #: When the next scheduled message is due, by the latest claim.
        self._due_at: float | None = None
        self._looks = True
        #: A claim has let publishers sleep, and has seen messages with keys: of a key that came since the latest look?
        self._looks_again = False
        #: Queues to be asked for messages that have failed before, which no key is found by.
        self._unasked: list[int] = []
        self._rotation = self._left = 0
        self._clock = ServerClock()
        #: The keys of what was claimed here.
        self._running: dict[Claim, tuple[int, int]] = {}

    def look(self) -> None:
        """There may be messages of keys that are not known."""
        self._looks = True

    @property
    def looks_now(self) -> bool:
        """Whether to look for keys before anything is due."""
        now = time.monotonic()
        return self._looks_again or any(keys.walking and keys.next_page <= now for keys in self._keys.values())

    @property
    def any_closed(self) -> bool:
        """Whether a key waits for its limits."""
        return any(keys.ring.any_closed for keys in list(self._keys.values()))

    def ready(self, queues: Iterable[int]) -> bool:
        """Whether a key of these queues may have its turn now, as far as is known."""
        if self.any_closed:
            self._reopen()
        return any(queue in self._keys and bool(self._keys[queue].ring) for queue in queues)

    def opens_in(self, queues: Iterable[int]) -> float | None:
        """Seconds until a closed key is to be asked again, or more keys are to be read; None if there is none."""
        asked = [self._keys[queue] for queue in queues if queue in self._keys]
        known = [keys.next_page for keys in asked if keys.walking]
        known += [at for at in (keys.ring.opens_at for keys in asked) if at is not None]
        return max(0.0, min(known) - time.monotonic()) if known else None

    def turns(self, queues: Sequence[int], places: int) -> Turns | None:
        """Whose turn it is in one of these fair queues; None if the claim is to be from everything else."""
        if not queues:
            return None
        for queue in queues:
            if queue not in self._keys:
                self._keys[queue] = _Keys()
                self._looks = True
        self._reopen()
        self._discover(queues)
        open_queues = [queue for queue in queues if self._keys[queue].ring]
        while self._unasked:
            queue = self._unasked.pop()
            if queue not in open_queues:
                return Turns(queue, clock=self._clock.earliest)
        if not open_queues:
            return None
        self._others_were_next = not self._others_were_next and time.monotonic() >= self._others_at
        if self._others_were_next:
            return None
        self._rotation += 1
        queue = open_queues[self._rotation % len(open_queues)]
        keys = self._keys[queue]
        return Turns(queue, keys.ring.turns(places), failed=keys.failed, clock=self._clock.earliest)

    def turn(self, queue: int) -> Turns | None:
        """Whose turn it is in one queue, for a single message."""
        keys = self._keys.setdefault(queue, _Keys())
        if not keys.ring:
            self._read_page(queue, keys)
        return Turns(queue, keys.ring.turns(1), clock=self._clock.earliest) if keys.ring else None

    def _reopen(self) -> None:
        """Ask those keys again of which a message has been acknowledged here."""
        if len(self._running) < self.RUNNING and not self.any_closed:
            return
        for claim in [claim for claim in self._running if not self._holds(claim)]:
            queue, key = self._running.pop(claim)
            self._keys[queue].ring.acknowledged(key)

    def _discover(self, queues: Sequence[int]) -> None:
        now = time.monotonic()
        due = self._due_at is not None and self._due_at <= now
        is_open = self.ready(queues)
        if not (due or (now >= self._next_newest if is_open else self._looks or self.looks_now)):
            for queue in queues:
                if not self._keys[queue].walked and self._page_due(self._keys[queue], now):
                    self._read_page(queue, self._keys[queue])
            return
        again, self._looks, self._looks_again, self._due_at = self._looks_again, False, False, None
        look = self._look(queues, now)
        self._unasked = list(look.failed)
        for queue, key in look.came:
            self._keys[queue].ring.came(key)
        for queue, key in look.due:
            self._keys[queue].ring.found([key])
        for queue in queues:
            keys = self._keys[queue]
            unread = again or keys.cursor != BEGINNING or not keys.next_page
            if (unread and not keys.ring) or self._page_due(keys, now):
                self._read_page(queue, keys)

    def _page_due(self, keys: _Keys, now: float) -> bool:
        return bool(keys.ring) and now >= keys.next_page and len(keys.ring) < self.MOST

    def _look(self, queues: Sequence[int], now: float) -> Look:
        seen = self._greatest_ids
        look = self._store.look(queues, seen[0][1])
        if look.greatest_id < seen[-1][1]:
            seen.clear()  # this is another server, or a restored database
        if not seen or look.greatest_id - seen[0][1] > FairStore.NEWEST:
            self._walk_again()
        seen.append((now, look.greatest_id))
        while len(seen) > 1 and seen[1][0] <= now - self.LATE_S:
            seen.popleft()
        took = self.NEWEST_SHARE * (time.monotonic() - now)
        self._next_newest = now + min(max(self.NEWEST_S, took), 2 * self.NEWEST_S)
        return look

    def _read_page(self, queue: int, keys: _Keys) -> None:
        begun = time.monotonic()
        page = self._store.ready_keys(queue, keys.cursor)
        if not page and keys.cursor != BEGINNING:
            keys.walked = True
            page = self._store.ready_keys(queue)
        if keys.ring.found(page):
            keys.rounds = 2
        full = len(page) == self._store.KEYS
        keys.cursor = (page[-1].key, 9 - page[-1].priority) if full else BEGINNING
        keys.walked = keys.walked or not full
        keys.rounds = max(0, keys.rounds - (not full))
        now = time.monotonic()
        pause = max(self.PAGE_S, self.PAGE_SHARE * (now - begun)) if keys.walked else self.WALK_SHARE * (now - begun)
        keys.next_page = now + pause * (1 if keys.rounds else self.CALM)

    def _walk_again(self) -> None:
        """From where the walk is to the end, and from the beginning to there."""
        for keys in self._keys.values():
            if not keys.rounds:
                keys.next_page -= (self.CALM - 1) / self.CALM * max(0.0, keys.next_page - time.monotonic())
            keys.rounds = 2

    def others_left(self, count: int) -> None:
        """So many other consumers have left so far: what they released has old ids, and no look finds its keys."""
        if count != self._left:
            self._left = count
            self._walk_again()

    def failed(self) -> None:
        """A claim has failed: the server that answers the next one may be another, with a clock of its own."""
        self._clock.forget()
        self._forget_since()

    def _forget_since(self) -> None:
        for keys in self._keys.values():
            keys.ring.forget_since()

    def claimed(self, turns: Turns | None, limit: int, result: ClaimResult, took_s: float = 0.0) -> None:
        """Note what a claim of at most `limit` messages has brought, and how long it took."""
        now = time.monotonic()
        self._ended.note(result.snapshot, now - took_s)
        if self._ended.long_ended:
            self._ended.long_ended = False
            self._walk_again()
        for one in result.messages:
            if one.flow_key is not None and one.queue_id in self._keys:
                self._running[one.id, one.fence] = (one.queue_id, one.flow_key)
        if turns is None:
            rest = min(max(self.REST_S, self.REST_SHARE * took_s), 4 * self.REST_S)
            self._others_at = now if result.messages else now + rest
            self._looks_again = self._looks_again or result.keyed_wait
            self._due_at = None if result.due_in_s is None else now + result.due_in_s
            return
        if result.messages:
            # Where messages are sparse, the claim from everything else sees whether there is another.
            self._looks = self._looks or now - self._brought_at < self.NEWEST_S
            self._brought_at = now
        if result.clock is not None and self._clock.shows(result.clock, turns.clock, now - took_s):
            self._forget_since()
        self._keys[turns.queue].failed = not result.one_had_failed
        self._keys[turns.queue].ring.runs_since(result.since)
        if result.one_had_failed:
            return  # what the turns would have brought was left
        by_key: dict[int, list[int]] = {}
        for one in result.messages:
            if one.flow_key is not None:
                by_key.setdefault(one.flow_key, []).append(one.id)
        taken = {key: Taken(len(ids), max(ids)) for key, ids in by_key.items()}
        ring, whole = self._keys[turns.queue].ring, result.queue_closed
        closed = whole is not None and len(result.messages) >= whole.places
        ring.took(turns.turns, taken, result.closed, full=closed or len(result.messages) >= limit)
        if whole is not None and closed:
            ring.close(whole.opens_in_s)


def in_turn(messages: Sequence[ClaimedMessage], turns: Turns | None) -> list[ClaimedMessage]:
    """Messages in the order of delivery: by priority and id, but one of each key after the other."""
    ordered = sorted(messages, key=lambda one: (-one.priority, one.id))
    if turns is None:
        return ordered
    places = {turn.key: place for place, turn in enumerate(turns.turns)}
    before: Counter[int | None] = Counter()
    ranks: dict[int, tuple[int, int]] = {}
    for one in ordered:
        ranks[one.id] = (before[one.flow_key], places.get(one.flow_key or 0, -1))
        before[one.flow_key] += 1
    return sorted(ordered, key=lambda one: ranks[one.id])

"""A queue against its model: whatever consumers do and however they die, each message is somewhere, once.

Consumers are processes ("puppets") that do one thing at a time.  The model knows which messages are ready, which are
held by whom, and which are gone; the table must agree after every step that the broker has confirmed.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
from typing import Any, ClassVar

import pytest
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from environment.testkit.client import Client
from environment.testkit.kombu_programs import spawn
from environment.testkit.stateful import run_machine
from environment.testkit.tables import dead_letters, rows_of
from environment.waiting import wait_until

PUPPETS = 3
#: Failures after which a message is a dead letter.
LIMIT = 5
RESCUE_S = 30


class Puppet:
    """A consumer process."""

    def __init__(self, url: str, queue: str) -> None:
        self.process = spawn("puppet", url, queue)

    def tell(self, verb: str, *words: Any) -> Any:
        """Have it do something; what it answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([verb, *words]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return json.loads(line)

    def get(self) -> list[Any]:
        """The message that it gets, if any."""
        message = self.tell("get")
        return [] if message is None else [message]

    def kill(self) -> None:
        self.process.kill()
        self.forget()

    def forget(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


class Broker(RuleBasedStateMachine):
    """One queue and a few consumers."""

    url: ClassVar[str]
    crashes: ClassVar[bool] = False
    numbers = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.queue = f"model-{secrets.token_hex(4)}"
        self.client = Client(self.url)
        self.client.channel.queue_declare(self.queue)
        self.puppets: dict[int, Puppet] = {}
        self.count = 0
        self.ready: dict[int, int] = {}  # message: priority, in the order of publishing
        self.returned: set[int] = set()  # ready again: its place among equals is not promised
        self.rescuable: set[int] = set()  # held by the dead
        self.held: dict[int, tuple[int, int]] = {}  # message: (puppet, priority)
        self.failures: dict[int, int] = {}
        self.buried = 0
        self.letters_before = dead_letters(self.url)

    def puppet(self, number: int) -> Puppet:
        if number not in self.puppets:
            self.puppets[number] = Puppet(self.url, self.queue)
        return self.puppets[number]

    # -- what can happen

    @rule(priority=st.integers(0, 9))
    def publish(self, priority: int) -> None:
        self.client.publish(self.count, exchange="", routing_key=self.queue, priority=priority)
        self.ready[self.count] = priority
        self.count += 1

    @precondition(lambda self: not self.rescuable)
    @rule(target=numbers, number=st.integers(0, PUPPETS - 1))
    def get(self, number: int) -> int | None:
        if self.ready:
            # What was given back is free a moment later.
            (message,) = wait_until(lambda: self.puppet(number).get(), 20, "what is ready")
        else:
            assert self.puppet(number).get() == []
            return None
        assert message in self.ready
        priority = self.ready.pop(message)
        fresh = {one: p for one, p in self.ready.items() if one not in self.returned}
        if message not in self.returned:
            assert all(p <= priority for p in fresh.values())
            assert all(p < priority or one > message for one, p in fresh.items())
        self.returned.discard(message)
        self.held[message] = (number, priority)
        return int(message)

    @rule(message=consumes(numbers))
    def ack(self, message: int | None) -> None:
        if message in self.held and message not in self.rescuable:
            number, _ = self.held.pop(message)
            self.puppets[number].tell("ack", message)

    @rule(message=consumes(numbers))
    def requeue(self, message: int | None) -> None:
        if message in self.held and message not in self.rescuable:
            number, priority = self.held.pop(message)
            self.puppets[number].tell("requeue", message)
            self.failures[message] = self.failures.get(message, 0) + 1
            self.back(message, priority)

    @rule(message=consumes(numbers))
    def drop(self, message: int | None) -> None:
        if message in self.held and message not in self.rescuable:
            number, _ = self.held.pop(message)
            self.puppets[number].tell("drop", message)
            self.buried += 1

    @precondition(lambda self: self.puppets)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.puppets)))
        puppet = self.puppets.pop(number)
        puppet.tell("close")
        puppet.forget()
        for message, (holder, priority) in list(self.held.items()):
            if holder == number and message not in self.rescuable:
                del self.held[message]
                self.back(message, priority)

    @precondition(lambda self: self.crashes and self.puppets and not self.rescuable)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.puppets)))
        self.puppets.pop(number).kill()
        self.rescuable = {message for message, (holder, _) in self.held.items() if holder == number}

    @precondition(lambda self: self.rescuable)
    @rule(number=st.integers(0, PUPPETS - 1))
    def rescue(self, number: int) -> None:
        """Somebody consumes, so what the dead held is free again after a while."""
        self.puppet(number)
        for message in self.rescuable:
            _, priority = self.held.pop(message)
            self.failures[message] = self.failures.get(message, 0) + 1
            self.back(message, priority)
        self.rescuable = set()
        wait_until(lambda: self.client.count(self.queue) == len(self.ready), RESCUE_S, "the rescue")

    def back(self, message: int, priority: int) -> None:
        if self.failures.get(message, 0) >= LIMIT:
            self.buried += 1
        else:
            self.ready[message] = priority
            self.returned.add(message)

    # -- what must hold

    @invariant()
    def nothing_is_lost(self) -> None:
        expected = len(self.ready) + len(self.held)
        wait_until(lambda: rows_of(self.url, self.queue) == expected, 20, f"{expected} rows")
        wait_until(lambda: dead_letters(self.url) - self.letters_before == self.buried, 20, f"{self.buried} letters")

    def teardown(self) -> None:
        try:
            for puppet in self.puppets.values():
                puppet.tell("close")
                puppet.forget()
            if not self.rescuable:
                left = sorted([*self.ready, *self.held])
                inbox = self.client.consume(self.queue)
                assert sorted(inbox.take_acked(len(left))) == left
        finally:
            for puppet in self.puppets.values():
                with contextlib.suppress(ProcessLookupError, subprocess.SubprocessError):
                    puppet.process.kill()
                    puppet.process.wait()
            self.client.close()


def play(url: str, *, crashes: bool, examples: int, steps: int) -> None:
    # A crash costs seconds: one failing example soon is worth more than a small one late.
    phases = [Phase.generate] if crashes else list(Phase)
    run_machine(Broker, examples=examples, steps=steps, given={"url": url, "crashes": crashes}, phases=phases)


def test_a_queue_agrees_with_its_model(database: Any) -> None:
    play(database.url, crashes=False, examples=5, steps=40)


@pytest.mark.long
def test_a_queue_agrees_with_its_model_through_crashes(database: Any) -> None:
    play(database.url, crashes=True, examples=40, steps=30)

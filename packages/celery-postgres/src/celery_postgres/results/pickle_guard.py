"""What a pickle would make its reader do, found out before it is read.

A pickle that calls nothing can still kill its reader. `LONG_BINPUT` allocates the number of memo entries that it names:
64 GB in seven bytes. A tuple that holds a tuple twice, thirty levels deep, takes a hundred bytes and has 2**30 members
when it is hashed as a key, or written as JSON; one that is 100,000 levels deep overflows C's stack there. So the pickle
machine runs here with sizes in place of values: 0.6 us per opcode.

It does not detect keys that were chosen to have one hash, which Python compares one by one: see `hash_guard`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable
from typing import NamedTuple

#: Limits on the members of one value and on everything hashed or passed to a constructor, each counted as often as it
#: occurs: a constant plus an allowance per byte of the pickle. A million members are hashed in 20 ms, and are 5 MB of
#: JSON.
MEMBERS, MEMBERS_PER_BYTE = 1_000_000, 10
#: No value is deeper: Python's own recursion limit does not apply where it is hashed.
LEVELS = 1_000
#: Text and bytes are hashed and compared this much faster than as many members.
_BYTES_A_MEMBER = 32
#: Shorter text counts as one member wherever it occurs: the two bytes of an occurrence pay for that.
SHORT_TEXT = 512
#: The cost of an integer grows with the square of its length: compared with a Decimal it is converted.
_INTEGER = ord("\x8b")

_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_NEWLINES = {"INST": 2, "GLOBAL": 2}


#: Which of the values that an opcode takes are hashed, or passed to a constructor that may hash them.
_ALL, _KEYS = slice(None), slice(None, None, 2)
_HASHING = {
    **dict.fromkeys(b"\x90\x91Rio\x81\x92", _ALL),
    **dict.fromkeys(b"sud", _KEYS),
}
#: Opcodes that push a value that can grow; all others push values that cannot.
_EMPTY = frozenset(b"]}\x8f")
#: Opcodes that change the value below those that they take: a list, a dict, a set, the state of an object.
_GROWING = frozenset(b"aesu\x90b")
#: Opcodes that read and write the memo: the bytes of the index, or 0 if it is in decimal.
_GETS = {ord("h"): 1, ord("j"): 4, ord("g"): 0}
_PUTS = {ord("q"): 1, ord("r"): 4, ord("p"): 0}

#: A value on the stack: the number of its members and itself, how deep they go, and whether another value holds it. A
#: held value does not grow any more, so that the size of its holder stays true; only a value that contains itself is
#: made otherwise.
_Value = list[int]
_SIZE, _DEPTH, _HELD = range(3)
_SMALL: _Value = [1, 0, True]
#: Text and bytes, whose hashes cannot be chosen.
_TEXT: _Value = [1, 0, True]
_TEXTS = frozenset(b"STUVX\x8c\x8dBC\x8e")


class _Machine:
    """The pickle machine, with sizes in place of values. A step gets its opcode and where the argument of that begins
    and ends."""

    __slots__ = ("data", "keys", "left", "marks", "memo", "most", "stack")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.left = self.most = MEMBERS + MEMBERS_PER_BYTE * len(data)
        self.keys = 0
        self.stack: list[_Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, _Value] = {}

    def ignore(self, opcode: _Opcode, begin: int, end: int) -> None:
        pass

    def mark(self, opcode: _Opcode, begin: int, end: int) -> None:
        self.marks.append(len(self.stack))

    def pop(self, opcode: _Opcode, begin: int, end: int) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def duplicate(self, opcode: _Opcode, begin: int, end: int) -> None:
        self.stack.append(self.stack[-1])

    def memoize(self, opcode: _Opcode, begin: int, end: int) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, opcode: _Opcode, begin: int, end: int) -> None:
        self.stack.append(self.memo[_index(self.data[begin:end], _GETS[opcode.code])])

    def put(self, opcode: _Opcode, begin: int, end: int) -> None:
        index = _index(self.data[begin:end], _PUTS[opcode.code])
        if index > len(self.data):
            raise ValueError("a memo larger than the pickle")
        self.memo[index] = self.stack[-1]

    def push_empty(self, opcode: _Opcode, begin: int, end: int) -> None:
        self.stack.append([1, 0, False])

    def push(self, opcode: _Opcode, begin: int, end: int) -> None:
        size = (end - begin) // _BYTES_A_MEMBER
        if size:
            if opcode.code == _INTEGER:
                size *= 1 + (end - begin) // 1024
            self.stack.append([1 + size, 0, True])
        else:
            self.stack.append(opcode.small)

    def combine(self, opcode: _Opcode, begin: int, end: int) -> None:
        """Take values off the stack, and put them into the one that is pushed."""
        stack = self.stack
        bottom = (self.marks.pop() if opcode.marked else len(stack)) - opcode.taken
        if bottom < 0:
            raise IndexError("an empty stack")
        values = stack[bottom:]
        del stack[bottom:]
        value = values.pop(0) if opcode.code in _GROWING else [1, 0, False]
        if opcode.code in _HASHING:
            hashed = values[_HASHING[opcode.code]]
            self.keys += sum([one is not _TEXT for one in hashed])
            self.left = _spend(hashed, self.left)
        if opcode.pushed:
            _hold(value, values, self.most)
            stack.append(value)


_Step = Callable[[_Machine, "_Opcode", int, int], None]
_MOVING: dict[int, _Step] = {
    ord("("): _Machine.mark,
    ord("0"): _Machine.pop,
    ord("2"): _Machine.duplicate,
    0x94: _Machine.memoize,
    **dict.fromkeys(_GETS, _Machine.get),
    **dict.fromkeys(_PUTS, _Machine.put),
    **dict.fromkeys(_EMPTY, _Machine.push_empty),
}


class _Opcode(NamedTuple):
    """The form of an opcode's argument, and what the opcode does to the stack.

    Attributes:
        fixed: bytes of an argument of fixed length.
        length: bytes of the length that precedes an argument of any length.
        newlines: how many newlines end the argument.
        taken: values taken off the stack; with `marked` these are below a mark.
        marked: everything above the topmost mark is taken too.
        pushed: values pushed on the stack.
        small: the value that is pushed for a short argument.
    """

    fixed: int
    length: int
    newlines: int
    step: _Step
    code: int
    taken: int
    marked: bool
    pushed: int
    small: _Value


def _described(info: pickletools.OpcodeInfo) -> _Opcode:
    code, size = ord(info.code), info.arg.n if info.arg else 0
    marked = pickletools.markobject in info.stack_before
    taken = info.stack_before.index(pickletools.markobject) if marked else len(info.stack_before)
    usual = _Machine.combine if taken or marked else _Machine.push if info.stack_after else _Machine.ignore
    return _Opcode(
        fixed=max(size, 0),
        length=_LENGTHS.get(size, 0),
        newlines=_NEWLINES.get(info.name, 1) if size == pickletools.UP_TO_NEWLINE else 0,
        step=_MOVING.get(code, usual),
        code=code,
        taken=taken,
        marked=marked,
        pushed=len(info.stack_after),
        small=_TEXT if code in _TEXTS else _SMALL,
    )


_OPCODES = {ord(info.code): _described(info) for info in pickletools.opcodes}
_STOP = ord(".")


def check_size(data: bytes) -> tuple[int, int]:
    """Check that reading a pickle takes memory and time in proportion to its length, apart from keys with one hash.

    Returns:
        How many keys may have one hash, and the number of members of everything that is hashed.

    Raises:
        ValueError, IndexError, KeyError: it does not, it builds a value that contains itself, or it is not a pickle.
    """
    machine, size, position = _Machine(data), len(data), 0
    while (code := data[position]) != _STOP:
        opcode = _OPCODES[code]
        begin = position + 1
        position = begin + opcode.fixed
        if opcode.length:
            position += opcode.length + int.from_bytes(data[begin : begin + opcode.length], "little")
        elif opcode.newlines:
            for _ in range(opcode.newlines):
                position = data.index(b"\n", position) + 1
        if position > size:
            raise ValueError("cut short")
        opcode.step(machine, opcode, begin, position)
    _spend(machine.stack[-1:], machine.most)
    return machine.keys, machine.most - machine.left


def _spend(values: Iterable[_Value], left: int) -> int:
    """Subtract the members of these values from the number that may still be processed."""
    for size, depth, _ in values:
        if depth > LEVELS:
            raise ValueError("a value that is too deep")
        left -= size
    if left < 0:
        raise ValueError("a value that unfolds")
    return left


def _hold(holder: _Value, values: Iterable[_Value], most: int) -> None:
    """Put values into another, whose size is not counted beyond ``most``."""
    size, depth, _ = holder
    for value in values:
        if value is _SMALL or value is _TEXT:
            size += 1
        else:
            size += value[_SIZE]
            depth = max(depth, value[_DEPTH] + 1)
            value[_HELD] = True
    if holder[_HELD]:
        raise ValueError("a value that contains itself")
    holder[_SIZE], holder[_DEPTH] = min(size, most + 1), depth


def _index(argument: bytes, width: int) -> int:
    return int.from_bytes(argument, "little") if width else int(argument)

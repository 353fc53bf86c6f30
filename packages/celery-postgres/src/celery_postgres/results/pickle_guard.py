"""What a pickle would make its reader do, seen before it is read.

A pickle that calls nothing can still end its reader. `LONG_BINPUT` makes room for the number of entries that it says,
64 GB in seven bytes; a tuple of a tuple twice, thirty levels deep, takes a hundred bytes and has 2**30 members when it
is hashed as a key, or written as JSON by whoever reads it; and one that is 100,000 deep overflows C's stack there. So
the stack is followed with sizes in the place of values: 0.6 us an opcode.

What is not seen: keys that were chosen to have one hash, which Python compares one by one: see `hashing`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterable
from typing import NamedTuple

#: So many members has a value at most, and so many has all together that is hashed or handed to a constructor; each
#: counted as often as it occurs: some, and more for each byte of the pickle. A million are hashed in 20 ms, and are
#: 5 MB of JSON.
MEMBERS, MEMBERS_PER_BYTE = 1_000_000, 10
#: Nothing is deeper: Python's own limit of recursion does not hold where it is hashed.
LEVELS = 1_000
#: Text and bytes are hashed and compared this much faster than as many members.
_BYTES_A_MEMBER = 32
#: Text that is shorter weighs no more, wherever it occurs, than the two bytes of an occurrence allow.
SHORT_TEXT = 512
#: Integers take the square of their length: compared with a Decimal they are converted.
_INTEGER = ord("\x8b")

_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_NEWLINES = {"INST": 2, "GLOBAL": 2}


class _Opcode(NamedTuple):
    #: Bytes of a fixed argument, bytes of the length before one of any length, or how many newlines end it.
    fixed: int
    length: int
    newlines: int
    #: Taken off the stack: so many, below a mark and all above it if there is to be one.
    taken: int
    marked: bool
    pushed: int


def _described(code: pickletools.OpcodeInfo) -> _Opcode:
    size = code.arg.n if code.arg else 0
    marked = pickletools.markobject in code.stack_before
    return _Opcode(
        fixed=max(size, 0),
        length=_LENGTHS.get(size, 0),
        newlines=_NEWLINES.get(code.name, 1) if size == pickletools.UP_TO_NEWLINE else 0,
        taken=code.stack_before.index(pickletools.markobject) if marked else len(code.stack_before),
        marked=marked,
        pushed=len(code.stack_after),
    )


_OPCODES = {ord(code.code): _described(code) for code in pickletools.opcodes}
_STOP, _MARK, _POP, _DUP, _MEMOIZE = b".(02\x94"
_GETS = {ord("h"): 1, ord("j"): 4, ord("g"): 0}
_PUTS = {ord("q"): 1, ord("r"): 4, ord("p"): 0}
#: What can grow; what pushes anything else pushes what cannot.
_EMPTY = frozenset(b"]}\x8f")
#: They change what lies below the values that they take: a list, a dict, a set, the state of an object.
_GROWING = frozenset(b"aesu\x90b")
#: Which of the values that they take are hashed, or handed to a constructor that may do so.
_ALL, _KEYS = slice(None), slice(None, None, 2)
_HASHING = {
    **dict.fromkeys(b"\x90\x91Rio\x81\x92", _ALL),
    **dict.fromkeys(b"sud", _KEYS),
}

#: A value on the stack: its members and itself, how deep they go, and whether another holds it. One that is held does
#: not grow any more, so that the size of who holds it stays true; only what contains itself is made otherwise.
_Value = list[int]
_SIZE, _DEPTH, _HELD = range(3)
_SMALL: _Value = [1, 0, True]
#: Text and bytes, whose hashes nobody can choose.
_TEXT: _Value = [1, 0, True]
_TEXTS = frozenset(b"STUVX\x8c\x8dBC\x8e")


def check_size(data: bytes) -> tuple[int, int]:
    """Return if reading a pickle takes memory and time in proportion to its length, but for keys of one hash: how many
    may be such keys, and the members of all that are hashed.

    Raises:
        ValueError, IndexError, KeyError: it does not, it makes what contains itself, or it is no pickle.
    """
    left = most = MEMBERS + MEMBERS_PER_BYTE * len(data)
    keys = 0
    stack: list[_Value] = []
    marks: list[int] = []
    memo: dict[int, _Value] = {}
    position = 0
    while True:
        code = data[position]
        fixed, length, newlines, taken, marked, pushed = _OPCODES[code]
        begin = position = position + 1
        position += fixed
        if length:
            position += length + int.from_bytes(data[begin : begin + length], "little")
        for _ in range(newlines):
            position = data.index(b"\n", position) + 1
        if position > len(data):
            raise ValueError("cut short")
        if code == _STOP:
            _spend(stack[-1:], most)
            return keys, most - left
        if code == _MARK:
            marks.append(len(stack))
        elif code == _POP and marks and marks[-1] == len(stack):
            marks.pop()
        elif code == _DUP:
            stack.append(stack[-1])
        elif code == _MEMOIZE:
            memo[len(memo)] = stack[-1]
        elif code in _GETS:
            stack.append(memo[_index(data[begin:position], _GETS[code])])
        elif code in _PUTS:
            index = _index(data[begin:position], _PUTS[code])
            if index > len(data):
                raise ValueError("a memo larger than the pickle")
            memo[index] = stack[-1]
        elif taken or marked:
            begin = (marks.pop() if marked else len(stack)) - taken
            if begin < 0:
                raise IndexError("an empty stack")
            values = stack[begin:]
            del stack[begin:]
            value = values.pop(0) if code in _GROWING else [1, 0, False]
            if code in _HASHING:
                hashed = values[_HASHING[code]]
                keys += sum(one is not _TEXT for one in hashed)
                left = _spend(hashed, left)
            if pushed:
                _hold(value, values, most)
                stack.append(value)
        elif pushed:
            if code in _EMPTY:
                stack.append([1, 0, False])
            else:
                size = (position - begin) // _BYTES_A_MEMBER
                if code == _INTEGER:
                    size *= 1 + (position - begin) // 1024
                small = _TEXT if code in _TEXTS else _SMALL
                stack.append([1 + size, 0, True] if size else small)


def _spend(values: Iterable[_Value], left: int) -> int:
    """Of so many members that may be looked at, how many are left after these values."""
    for size, depth, _ in values:
        if depth > LEVELS:
            raise ValueError("a value that is too deep")
        left -= size
    if left < 0:
        raise ValueError("a value that unfolds")
    return left


def _hold(holder: _Value, values: Iterable[_Value], most: int) -> None:
    """Put values into another, whose size is not counted further than past ``most``."""
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

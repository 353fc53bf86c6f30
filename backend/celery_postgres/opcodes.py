"""What a pickle would make its reader do, seen before it is read.

A pickle that calls nothing can still end its reader. `LONG_BINPUT` makes room for the number of entries that it says,
64 GB in seven bytes; and a tuple of a tuple twice, thirty levels deep, takes a hundred bytes and has 2**30 members when
it is hashed as a key. So the stack is followed with sizes in the place of values: 0.5 us an opcode.
"""

from __future__ import annotations

import pickletools
from typing import NamedTuple

#: What can be hashed has at most so many members for each byte of the pickle, counted as often as they occur. What this
#: package writes has one at most; more is a tuple that occurs several times in another.
MEMBERS_PER_BYTE = 10

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
#: What they leave cannot be hashed, nor what holds it: its members do not count.
_LISTS = frozenset(b"]l}aesud\x8f\x90")
_STOP, _MARK, _POP, _DUP, _MEMOIZE = b".(02\x94"
_GETS = {ord("h"): 1, ord("j"): 4, ord("g"): 0}
_PUTS = {ord("q"): 1, ord("r"): 4, ord("p"): 0}


def check_size(data: bytes) -> None:
    """Return if reading a pickle takes memory and time in proportion to its length.

    Raises:
        ValueError, IndexError, KeyError: it does not, or is no pickle.
    """
    most = MEMBERS_PER_BYTE * len(data)
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
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
            return
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
        elif taken or marked or pushed:
            begin = (marks.pop() if marked else len(stack)) - taken
            if begin < 0:
                raise IndexError("an empty stack")
            size = 1 if code in _LISTS else 1 + sum(stack[begin:])
            if size > most:
                raise ValueError("a value that unfolds")
            stack[begin:] = [size] * pushed


def _index(argument: bytes, width: int) -> int:
    return int.from_bytes(argument, "little") if width else int(argument)

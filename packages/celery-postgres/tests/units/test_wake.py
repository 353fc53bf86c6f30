"""The descriptor that one thread makes readable for another."""

from __future__ import annotations

import os
import select

from celery_postgres.database.wake import Wake


def readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def test_it_is_readable_from_set_to_clear() -> None:
    wake = Wake()
    assert not readable(wake.fileno())
    wake.set()
    wake.set()
    assert wake.wait(0) == [wake.fileno()]
    wake.clear()
    assert wake.wait(0) == []
    wake.clear()
    wake.close()


def test_a_closed_one_touches_nobody_who_has_its_number_now() -> None:
    wake = Wake()
    number = wake.fileno()
    wake.close()
    wake.close()
    reading, writing = os.pipe()
    spare = [os.dup(reading)]
    while number not in (reading, writing, *spare):
        spare.append(os.dup(reading))
    try:
        os.write(writing, b"for somebody else")
        wake.set()
        wake.clear()
        assert os.read(reading, 100) == b"for somebody else"
    finally:
        for descriptor in (reading, writing, *spare):
            os.close(descriptor)

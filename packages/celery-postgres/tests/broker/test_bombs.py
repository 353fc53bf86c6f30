"""Compressed bodies that would fill the memory of whoever reads them."""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import kombu.compression
import pytest

from celery_postgres.consumer.decompression import TooLargeError, decompress
from celery_postgres.database.options import MAX_DECOMPRESSED
from celery_postgres.database.payload import MAX_MEMBERS
from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.hostile import insert_all
from environment.testkit.probe import Probe, unique
from environment.testkit.stock_rows import payload
from environment.testkit.tables import dead_letters, rows_of
from environment.waiting import wait_until

PACKERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("application/x-gzip", zlib.compress),
    "bz2": ("application/x-bz2", bz2.compress),
    "lzma": ("application/x-lzma", lzma.compress),
}


def _bomb(kind: str, size: int) -> bytes:
    """Much in little."""
    if kind == "bz2":  # many streams, one after the other, as bz2 reads them
        stream = bz2.compress(bytes(900_000))
        return stream * (size // 900_000 + 1)
    return PACKERS[kind][1](bytes(size))


def _packed(kind: str, body: bytes, **headers: Any) -> str:
    content = json.loads(payload(None, "celery", compression=PACKERS[kind][0], **headers))
    return json.dumps({**content, "body": base64.b64encode(body).decode()})


@pytest.mark.parametrize("kind", PACKERS)
def test_what_is_packed_is_unpacked_to_the_limit(kind: str) -> None:
    name, pack = PACKERS[kind]
    for body in (b"", b"x", b'[["a"], {}, {}]' * 10_000, bytes(100_000)):
        assert decompress(pack(body), name, 150_000) == body
        assert decompress(pack(body), name, len(body)) == body
    with pytest.raises(TooLargeError, match="max_decompressed"):
        decompress(pack(bytes(100_001)), name, 100_000)
    with pytest.raises(TooLargeError):
        decompress(_bomb(kind, 2 * MAX_DECOMPRESSED), name)


@pytest.mark.parametrize("kind", ["bz2", "lzma"])
def test_several_streams_are_one_body(kind: str) -> None:
    name, pack = PACKERS[kind]
    assert decompress(pack(b"one ") + pack(b"two"), name) == b"one two"
    assert decompress(pack(b"one") + b"something else", name) == b"one"
    with pytest.raises(TooLargeError):
        decompress(pack(bytes(60)) * 3, name, 100)


@pytest.mark.parametrize("kind", PACKERS)
def test_a_torn_body_is_an_error(kind: str) -> None:
    name, pack = PACKERS[kind]
    for torn in (pack(b"whole" * 100)[:-5], b"", b"hunter2"):
        with pytest.raises((EOFError, OSError, zlib.error, lzma.LZMAError)):
            decompress(torn, name)


@pytest.fixture
def own_codec() -> Iterator[str]:
    kombu.compression.register(lambda body: body, lambda body: bytes(body) * 100, "application/x-own", ["own"])
    yield "own"
    kombu.compression._encoders.pop("application/x-own")
    kombu.compression._decoders.pop("application/x-own")
    kombu.compression._aliases.pop("own")


def test_a_codec_of_ones_own_is_used_and_measured(own_codec: str) -> None:
    assert decompress(b"x", own_codec, 100) == b"x" * 100
    with pytest.raises(TooLargeError):
        decompress(b"xx", own_codec, 100)


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "lzma"])
def test_a_compressed_message_arrives(connect: Callable[..., Client], queue: str, compression: str) -> None:
    client = connect()
    client.publish("x" * 1000, queue, compression=compression)
    (message,) = client.consume(queue).take()
    assert message.payload == "x" * 1000
    assert message.headers["compression"] == kombu.compression.get_encoder(compression)[1]
    message.ack()


def test_a_bomb_is_a_dead_letter_and_the_worker_goes_on(probe: Probe) -> None:
    """Also one that fits but for the option."""
    worker = probe.start(conf={"broker_transport_options": {"max_decompressed": 1 << 20}})
    names = [unique(kind) for kind in PACKERS]
    pairs = list(zip(PACKERS, names, strict=True))
    bombs = [_packed(kind, _bomb(kind, 2 << 20), task="probe.run", id=name) for kind, name in pairs]
    torn = [_packed(kind, b"hunter2", task="probe.run", id=name) for kind, name in pairs]
    insert_all(probe.url, "celery", iter([*bombs, *torn]))
    wait_until(lambda: rows_of(probe.url, "celery") == 0, DEADLINE_S, "all of them to be gone")
    assert [dead_letters(probe.url, name) for name in names] == [2, 2, 2]
    assert dead_letters(probe.url, "max_decompressed (1048576 bytes)") == len(PACKERS)
    assert dead_letters(probe.url, "cannot be decoded") == len(PACKERS)
    assert probe.send("run", "after", compression="gzip").get(timeout=DEADLINE_S) == "after"
    assert worker.process.poll() is None


def test_what_would_take_too_much_memory_parsed_is_a_dead_letter(probe: Probe) -> None:
    """A body of little more than a million members, packed and not, and a header with as many. Commas in a text are no
    members."""
    worker = probe.start()
    names = [unique(kind) for kind in ("packed", "plain", "header")]
    lists = ("[[" + "[]," * (MAX_MEMBERS // 2) + "1],{},{}]").encode()
    content = json.loads(payload(None, "celery", task="probe.run", id=names[1]))
    plain = json.dumps({**content, "body": base64.b64encode(lists).decode()})
    header = payload([[], {}, {}], "celery", task="probe.run", id=names[2], x="@").replace('"@"', lists[1:-7].decode())
    insert_all(
        probe.url, "celery", iter([_packed("bz2", bz2.compress(lists), task="probe.run", id=names[0]), plain, header])
    )
    wait_until(lambda: rows_of(probe.url, "celery") == 0, DEADLINE_S, "all of them to be gone")
    assert dead_letters(probe.url, f"more than {MAX_MEMBERS} members") == 3
    commas = "," * (2 * MAX_MEMBERS)
    assert probe.send("echo", commas).get(timeout=DEADLINE_S) == commas
    assert worker.process.poll() is None


def test_a_body_that_cannot_be_decoded_is_a_dead_letter(probe: Probe) -> None:
    """Of either protocol. Celery would acknowledge it, and it would be gone."""
    worker = probe.start()
    name = unique("torn")
    first = json.loads(payload({"task": "probe.run", "id": name, "args": []}, "celery", mark=name))
    second = json.loads(payload([[], {}, {}], "celery", task="probe.run", id=name))
    texts = [
        json.dumps({**message, **wrong})
        for message in (first, second)
        for wrong in (
            {"body": base64.b64encode(b"hunter2").decode()},
            {"content-type": "application/x-unheard-of"},
            {"content-type": "application/x-python-serialize"},
            {"headers": {**message["headers"], "compression": "gzip"}},
            {"headers": {**message["headers"], "compression": ["gzip"]}},
        )
    ]
    insert_all(probe.url, "celery", iter(texts))
    wait_until(lambda: rows_of(probe.url, "celery") == 0, DEADLINE_S, "all of them to be gone")
    assert dead_letters(probe.url, name) == len(texts)
    assert probe.send("run", "after").get(timeout=DEADLINE_S) == "after"
    assert "hunter2" not in worker.log_text()

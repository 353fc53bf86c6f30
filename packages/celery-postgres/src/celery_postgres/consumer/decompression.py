"""Kombu's message, whose body is decompressed and parsed up to a limit: 3.5 kB of bz2 can be 3 GB."""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from kombu import compression as _compression
from kombu.utils.encoding import bytes_to_str, str_to_bytes

from celery_postgres.compat.upstream import virtual
from celery_postgres.database.dead_letter import DeadLetterKind, DeadLetterReason, FlawedMessageError
from celery_postgres.database.options import MAX_DECOMPRESSED
from celery_postgres.database.payload import MAX_MEMBERS, has_too_many_members

#: With the codecs that happen to be installed.
compression: Any = _compression
#: The memory that `xz -9` and `zstd --ultra` need for decompression; a header may ask for 4 GB.
_MEMORY = 128 << 20
#: Brotli has no limit. It makes 16 MB at most of each of its commands, which has this many bytes or more.
_STEP = 16


class TooLargeError(FlawedMessageError):
    """A decompressed body is larger than the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(DeadLetterReason(DeadLetterKind.TOO_LARGE, f"max_decompressed ({limit} bytes)"))


class TooManyMembersError(FlawedMessageError):
    """A body of JSON would take too much memory once parsed."""

    def __init__(self) -> None:
        super().__init__(DeadLetterReason(DeadLetterKind.TOO_MANY_MEMBERS, f"{MAX_MEMBERS} members"))


class Message(virtual.Message):  # type: ignore[misc]
    """Kombu's message, whose body is decompressed up to the limit of its channel."""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **options: Any) -> None:
        headers = payload.get("headers") or {}
        packed = headers.get("compression")
        if not packed:
            super().__init__(payload, channel=channel, **options)
            return
        properties = payload["properties"]
        body, error = channel.decode_body(payload.get("body"), properties.get("body_encoding")), None
        try:
            body = decompress(body, packed, channel.max_decompressed)
        except Exception:
            error = sys.exc_info()
        plain = {**properties, "body_encoding": None}
        super().__init__({**payload, "body": body, "headers": {}, "properties": plain}, channel=channel, **options)
        self.headers, self.properties, self._raw = headers, properties, payload
        if error is not None:
            self.errors.append(error)

    def _decode(self) -> Any:
        if isinstance(self.body, str | bytes) and len(self.body) > MAX_MEMBERS:  # a shorter text cannot have so many
            text = bytes_to_str(self.body)
            if isinstance(text, str) and "json" in str(self.content_type) and has_too_many_members(text):
                raise TooManyMembersError
        return super()._decode()


def decompress(body: Any, name: str, limit: int = MAX_DECOMPRESSED) -> bytes:
    """As `kombu.compression.decompress`, but no more than `limit` bytes.

    A codec that the program has registered itself is called as it is, and its result is measured afterwards.

    Raises:
        TooLargeError: it is larger.
        Exception: whatever the codec raises on these bytes.
    """
    decoder = compression.get_decoder(name)
    bounded = _bounded(decoder)
    data = str_to_bytes(body)
    if bounded is None:
        unpacked: bytes = decoder(data)
        if len(unpacked) > limit:
            raise TooLargeError(limit)
        return unpacked
    parts, size = [], 0
    for part in bounded(data, limit):
        size += len(part)
        if size > limit:
            raise TooLargeError(limit)
        parts.append(part)
    return b"".join(parts)


def _bounded(decoder: Any) -> Callable[[bytes, int], Iterable[bytes]] | None:
    """What unpacks as this codec of Kombu's does, in parts that are little more than the limit."""
    if decoder is zlib.decompress:
        return lambda data, limit: _streams(zlib.decompressobj, data, limit, one=True)
    if decoder is bz2.decompress:
        return lambda data, limit: _streams(bz2.BZ2Decompressor, data, limit)
    if decoder is lzma.decompress:
        return lambda data, limit: _streams(lambda: lzma.LZMADecompressor(memlimit=_MEMORY), data, limit)
    zstd, brotli = getattr(compression, "zstd", None), getattr(compression, "brotli", None)
    if zstd is not None and decoder is getattr(zstd, "decompress", None) and hasattr(zstd, "DecompressionParameter"):
        options = {
            zstd.DecompressionParameter.window_log_max: _MEMORY.bit_length() - 1
        }  # Python's own, from Kombu 5.7 on
        return lambda data, limit: _streams(lambda: zstd.ZstdDecompressor(options=options), data, limit)
    if zstd is not None and getattr(decoder, "__module__", None) == compression.__name__:
        return _zstd
    if brotli is not None and decoder is brotli.decompress:
        return _brotli
    return None


def _streams(new: Callable[[], Any], data: bytes, limit: int, one: bool = False) -> Iterable[bytes]:
    """One stream after the other, as the standard library's functions read them."""
    first = True
    while first or (data and not one):
        unpacker = new()
        try:
            part = unpacker.decompress(data, limit + 1)
        except (OSError, lzma.LZMAError):
            if first:
                raise
            return  # no stream behind the last: bz2 and lzma ignore it
        yield part
        if not unpacker.eof:
            raise EOFError("the compressed body is cut short")
        data, first = unpacker.unused_data, False


def _zstd(data: bytes, limit: int) -> Iterable[bytes]:
    unpacker = compression.zstd.ZstdDecompressor(max_window_size=_MEMORY)
    with unpacker.stream_reader(data) as reader:
        while part := reader.read(1 << 20):
            yield part


def _brotli(data: bytes, limit: int) -> Iterable[bytes]:
    unpacker = compression.brotli.Decompressor()
    unpack = getattr(unpacker, "process", None) or unpacker.decompress
    for begin in range(0, len(data), _STEP):
        yield unpack(data[begin : begin + _STEP])
    if not unpacker.is_finished():
        raise EOFError("the compressed body is cut short")

"""`Idempotency-Key`, as in draft-ietf-httpapi-idempotency-key-header: a submission that is sent twice runs once."""

from __future__ import annotations

import hashlib
import json
import re

from pydantic import BaseModel

from app.http.problems import Problem

LONGEST = 255

#: RFC 8941, 3.3.3: a string in quotes. Many clients omit the quotes, which for a plain word has the same meaning.
_STRING = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"', re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9._~:/+=-]+", re.ASCII)
#: The same for JSON Schema, without escapes, which no client needs.
PATTERN = r'^("[ !#-\[\]-~]{1,255}"|[A-Za-z0-9._~:/+=-]{1,255})$'


def parse(header: str | None, *, required: bool) -> str | None:
    """Return the client's key, or None.

    Raises:
        Problem: 400; a key is required, or it is malformed.
    """
    if header is None:
        if required:
            raise Problem(
                400, "idempotency-key-missing", "this server requires an Idempotency-Key with each submission"
            )
        return None
    header = header.strip(" \t")
    quoted = _STRING.fullmatch(header)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else header if _WORD.fullmatch(header) else ""
    if not 1 <= len(key) <= LONGEST:
        raise Problem(
            400,
            "idempotency-key-malformed",
            f"Idempotency-Key must be a string in quotes, of 1 to {LONGEST} characters",
        )
    return key


def fingerprint(name: str, submission: BaseModel) -> bytes:
    """A hash that identifies a submission: the task and its arguments, independent of how the JSON was written."""
    content = submission.model_dump(mode="json", exclude={"tenant_id"})
    return hashlib.sha256(json.dumps([name, content], sort_keys=True).encode()).digest()

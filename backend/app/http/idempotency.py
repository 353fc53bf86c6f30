"""`Idempotency-Key`, as draft-ietf-httpapi-idempotency-key-header has it: a submission that is sent twice is one."""

from __future__ import annotations

import hashlib
import json
import re

from pydantic import BaseModel

from app.http.problems import Problem

LONGEST = 255

#: RFC 8941, 3.3.3: a string in quotes. Many clients leave the quotes out, which for a plain word says the same.
_STRING = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"', re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9._~:/+=-]+", re.ASCII)
#: The same for JSON Schema, without the escapes, which nobody needs.
PATTERN = r'^("[ !#-\[\]-~]{1,255}"|[A-Za-z0-9._~:/+=-]{1,255})$'


def parse(header: str | None, *, required: bool) -> str | None:
    """The key that a client has chosen, or None.

    Raises:
        Problem: 400; there must be one, or it is not well formed.
    """
    if header is None:
        if required:
            raise Problem(400, "idempotency-key-missing", "this server wants an Idempotency-Key with each submission")
        return None
    header = header.strip(" \t")
    quoted = _STRING.fullmatch(header)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else header if _WORD.fullmatch(header) else ""
    if not 1 <= len(key) <= LONGEST:
        raise Problem(
            400, "idempotency-key-malformed", f"Idempotency-Key is a string in quotes, of 1 to {LONGEST} characters"
        )
    return key


def fingerprint(name: str, submission: BaseModel) -> bytes:
    """What tells two submissions apart: the task, and what is asked of it, however its JSON was written."""
    content = submission.model_dump(mode="json", exclude={"tenant_id"})
    return hashlib.sha256(json.dumps([name, content], sort_keys=True).encode()).digest()

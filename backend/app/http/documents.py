"""A sender's JSON, within limits that are checked before it is parsed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from app.http.problems import Problem

# A string that is not closed extends to the end. Otherwise each quote in it would be tried as a beginning, in quadratic
# time.
_TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
_OPENING, _CLOSING, _COMMA = frozenset(b"[{"), frozenset(b"]}"), ord(",")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a document.

    Attributes:
        levels: of nested objects and arrays.
        members: of all objects and arrays together; an empty one counts as one.
    """

    levels: int
    members: int

    def exceeded(self, document: bytes) -> str | None:
        """Name the limit that a JSON text exceeds. The text is scanned up to that point and not parsed: a parser would
        recurse, and would keep 90,000 members of a body of 1 MB (with an error about each, 580 MB) only to report that
        they are too many.
        """
        level = members = 0
        for token in _TOKENS.finditer(document):
            sign = document[token.start()]
            if sign == _COMMA:
                members += 1
            elif sign in _OPENING:
                level += 1
                members += 1
            elif sign in _CLOSING:
                level -= 1
            if level > self.levels:
                return "levels"
            if members > self.members:
                return "members"
        return None


def parse(document: bytes, limits: Limits) -> Any:
    """Parse a JSON text.

    Raises:
        Problem: 400; it is not JSON, or exceeds a limit.
    """
    # json accepts the other encodings too, in which a byte that looks like a quote need not be one.
    if json.detect_encoding(document) not in ("utf-8", "utf-8-sig"):
        raise Problem(400, "malformed-json", "the body is not UTF-8, as JSON is")
    exceeded = limits.exceeded(document)
    if exceeded == "levels":
        raise Problem(400, "too-deep", f"the body has more than {limits.levels} levels of objects and arrays")
    if exceeded == "members":
        raise Problem(400, "too-many-members", f"the body has more than {limits.members} members")
    try:
        return json.loads(document)
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits is a ValueError too
        raise Problem(400, "malformed-json", "the body is not JSON") from None

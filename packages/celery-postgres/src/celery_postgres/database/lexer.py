"""SQL as PostgreSQL's scanner reads it: code, comments and quoted text.

psycopg2 fills values into the text of a statement, also where a placeholder stands within a comment: a line break in
the value would end the comment. So comments are removed before a statement is sent, and a placeholder within quotes is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

Kind = Literal["code", "comment", "quoted"]

#: Where code ends because a comment or quoted text begins.
_BEGIN = re.compile(r"--|/\*|(?<![\w$])[eE]'|'|\"|(?<![\w$])\$(?:[^\W\d]\w*)?\$")
_ESCAPED = re.compile(r"(?:[^'\\]|''|\\.)*'", re.DOTALL)
_PLAIN = {"'": re.compile(r"(?:[^']|'')*'"), '"': re.compile(r'(?:[^"]|"")*"')}
_COMMENT = re.compile(r"/\*|\*/")
#: Placeholders of psycopg2, of SQLAlchemy (`::` is a cast) and of PostgreSQL.
PLACEHOLDER = re.compile(r"%\(\w+\)s|(?<!%)%s|(?<![:\w]):[A-Za-z_]\w*|\$\d+")


def pieces(sql: str) -> Iterator[tuple[Kind, str]]:
    """The statement cut into code, comments and quoted text (strings, names, dollar quotes), in order.

    Raises:
        ValueError: a comment or quoted text does not end.
    """
    at = 0
    while at < len(sql):
        begin = _BEGIN.search(sql, at)
        if begin is None:
            yield "code", sql[at:]
            return
        if begin.start() > at:
            yield "code", sql[at : begin.start()]
        at = _end(sql, begin)
        yield "comment" if begin[0] in ("--", "/*") else "quoted", sql[begin.start() : at]


def uncommented(sql: str) -> str:
    """The statement without its comments. Those within quoted text, such as the body of a function, stay."""
    return "".join(
        "\n" if text.startswith("--") else " " if kind == "comment" else text for kind, text in pieces(sql)
    ).strip()


def misplaced(sql: str) -> list[str]:
    """The placeholders within comments or quoted text, where no value may stand."""
    return [found[0] for kind, text in pieces(sql) if kind != "code" for found in PLACEHOLDER.finditer(text)]


def is_single(sql: str) -> bool:
    """Whether it is one statement without a comment, which cannot end the transaction that it is sent in."""
    try:
        parts = list(pieces(sql))
    except ValueError:
        return False
    return not any(kind == "comment" or (kind == "code" and ";" in text) for kind, text in parts)


def _end(sql: str, begin: re.Match[str]) -> int:
    opening = begin[0]
    if opening == "--":
        newline = sql.find("\n", begin.end())
        return len(sql) if newline < 0 else newline + 1
    if opening == "/*":
        return _end_of_comment(sql, begin)
    if opening.startswith("$"):
        closing = sql.find(opening, begin.end())
        if closing >= 0:
            return closing + len(opening)
    else:
        quoted = (_ESCAPED if len(opening) == 2 else _PLAIN[opening]).match(sql, begin.end())
        if quoted is not None:
            return quoted.end()
    raise ValueError(f"a quote does not end: {sql[begin.start() : begin.start() + 60]}")


def _end_of_comment(sql: str, begin: re.Match[str]) -> int:
    depth = 1  # comments nest
    for mark in _COMMENT.finditer(sql, begin.end()):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return mark.end()
    raise ValueError(f"a comment does not end: {sql[begin.start() : begin.start() + 60]}")

"""Topic patterns of AMQP 0-9-1 as regular expressions that PostgreSQL understands."""

from __future__ import annotations

import re

_WORD = r"[^.]*"
#: Each `#` multiplies the states that PostgreSQL keeps during a match: 150 of them take a quarter of a second, in every
#: publish to that exchange. The tables have the same limit.
MAX_HASHES = 4
_SPECIAL = re.compile(r"([!-/:-@\[-`{-~ ])")


def pattern(key: str) -> str:
    """The regular expression of a binding key.

    `*` is exactly one word, `#` is any number of words, none included (AMQP 0-9-1, 3.1.3.3).
    """
    parts = key.split(".")
    words = [word for i, word in enumerate(parts) if not (word == "#" and parts[i - 1 : i] == ["#"])]
    if words == ["#"]:
        return "^.*$"
    expression = ""
    for number, word in enumerate(words):
        if word == "#":
            # The dot belongs to the words that # matches, so that both may be absent.
            expression += rf"(\.{_WORD})*" if number == len(words) - 1 else rf"({_WORD}\.)*"
            continue
        if number and words[number - 1] != "#":
            expression += r"\."
        expression += _WORD if word == "*" else _SPECIAL.sub(r"\\\1", word)
        if number + 1 < len(words) and words[number + 1] == "#" and number + 2 < len(words):
            expression += r"\."
    return f"^{expression}$"

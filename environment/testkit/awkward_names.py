"""Queue names that are valid here and break other brokers or displays."""

AWKWARD = {
    "quotes": "a 'single' and a \"double\" and a `back`",
    "injection": "x'); DROP TABLE kombu_message; --",
    "dollar": "$$ $1 $body$",
    "percent": "100% %s %(name)s {braces} :colon",
    "backslash": "back\\slash \\x41 \\",
    "semicolon": "one;two",
    "blank": " blanks around ",
    "unicode": "Grüße-你好-🐘",
    "upper": "UPPER",
    "lower": "upper",
    "composed": "caf\u00e9",
    "decomposed": "cafe\u0301",
    "path": "../../etc/passwd",
    "comma": "a,b",
    "200 letters": "x" * 200,
    "200 letters, another": "x" * 199 + "y",
    "200 of unicode": "🐘" * 199 + "ü",
}

#: Names that are refused: they would look like another name wherever they are shown.
UNPRINTABLE = {
    "lines": "two\nlines",
    "tab": "a\ttab",
    "escape": "\x1b[2J",
    "C1": "a\x9bb",
    "line separator": "two\u2028lines",
    "turned around": "a\u202eb",
    "nothing to see": "a\u200bb",
    "NUL": "nul\x00nul",
}

"""How the console writes numbers, times, names and states. Names are hostile text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from markupsafe import Markup

from celery_postgres.readmodel import Count

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400
#: A number is whole if it is so near to one: 100 a minute is 1.6666666666666667 a second.
_WHOLE = 1e-6
#: Characters that change the direction of the text around them, or are invisible.
_UNSEEN = {
    *range(0x20),
    *range(0x7F, 0xA0),
    0x061C,
    *range(0x200B, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    0xFEFF,
    *range(0xFFF9, 0xFFFC),
    *range(0xE0000, 0xE0080),
} - {0x0A}
_SHOWN = {code: f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}" for code in _UNSEEN}
#: A name is at most so long in a list. Kombu's own names are far shorter.
LONGEST_SHOWN = 300


def plain(value: object) -> object:
    """Text with its invisible characters written out; Jinja escapes the rest. Other values as they are."""
    if isinstance(value, str) and not isinstance(value, Markup):
        # Half a surrogate pair cannot be sent as UTF-8.
        return value.encode("utf-8", "backslashreplace").decode().translate(_SHOWN)
    return value


def count(number: int | Count | None) -> str:
    """A count: `9,999`, or `10,000+` where counting stopped."""
    if number is None:
        return "-"
    return str(number if isinstance(number, Count) else Count(number))


def duration(seconds: float | timedelta | None) -> str:
    """A duration in the two largest units: `212 ms`, `5.8 s`, `14 min 8 s`, `3 h 5 min`, `2 d 4 h`."""
    if seconds is None:
        return ""
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    seconds = max(seconds, 0.0)
    if seconds < 0.9995:  # 999.5 ms and more is a second
        return f"{seconds * 1000:.0f} ms" if seconds else "0 s"
    if seconds < _MINUTE_S - 0.05:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR_S:
        return _two(whole, _MINUTE_S, "min", 1, "s")
    if whole < _DAY_S:
        return _two(whole, _HOUR_S, "h", _MINUTE_S, "min")
    return _two(whole, _DAY_S, "d", _HOUR_S, "h")


def _two(whole: int, large_s: int, large: str, small_s: int, small: str) -> str:
    most, rest = divmod(whole, large_s)
    return f"{most:,} {large} {rest // small_s} {small}" if rest // small_s else f"{most:,} {large}"


def rate(per_second: float) -> str:
    """A rate: `5 a second`, `120 a minute`, `10 an hour`."""
    units = ((1, "a second"), (_MINUTE_S, "a minute"), (_HOUR_S, "an hour"))
    shown = [(per_second * length, name) for length, name in units]
    many, name = next(
        (one for one in shown if one[0] >= 1 and abs(one[0] - round(one[0])) < _WHOLE),
        next((one for one in shown if one[0] >= 1), shown[-1]),
    )
    return f"{float(f'{many:.4g}'):,.10g} {name}"


def moment(at: datetime | None, form: str = "auto") -> Markup:
    """A `time` element: UTC, and the script puts it into the reader's zone.

    Args:
        at: aware, or naive in UTC.
        form: `time`, `minute`, `day` of the week, `date`, or `auto` for the time of today and the date of other days.
    """
    if at is None:
        return Markup("")
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    if form == "auto":
        form = "time" if abs(datetime.now(UTC) - at) < timedelta(hours=20) else "date"
    known = {"time": f"{at:%H:%M:%S} UTC", "minute": f"{at:%H:%M} UTC", "day": f"{at:%a} {at.day} {at:%H:%M} UTC"}
    shown = known.get(form) or f"{at.day} {at:%b %Y %H:%M} UTC"
    exact = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Markup('<time datetime="{}" data-f="{}">{}</time>').format(exact, form, shown)


def task_name(name: str | None) -> Markup:
    """A task's name: the module grey, the last part strong."""
    if not name:
        return Markup('<span class="soft">name unknown</span>')
    text = str(plain(name))
    text = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
    module, dot, last = text.rpartition(".")
    if not dot:
        return Markup("<bdi>{}</bdi>").format(text)
    return Markup('<bdi><span class="mod">{}</span>{}</bdi>').format(module + dot, last)


def short(task_id: str | None) -> str:
    """The first 8 characters of an id."""
    return (task_id or "")[:8]


def plural(number: int | Count, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 task`, `2 tasks`, `10,000+ tasks`."""
    return f"{count(number)} {(one if str(number) == '1' else many or one + 's')}"

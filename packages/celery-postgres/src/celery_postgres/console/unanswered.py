"""What the log and the page say when the database has not answered."""

from __future__ import annotations

from celery_postgres.database.driver import LOST_CONNECTION
from celery_postgres.errors import SchemaError, primary

#: SQLSTATEs of a statement that took too long, or waited for too long: time may mend it.
_LATE = frozenset({"57014", "55P03"})
_AGAIN = "The database did not answer in time. Workers do not wait for this page; try again."
_UNREACHABLE = (
    "The console cannot reach its database. Workers have connections of their own. The console's log has the reason: "
    "see whether the server runs, and whether the address, the user and the password in the application's broker_url "
    "are right; `python -m celery_postgres check` asks the same server."
)
_ROLES = "roles.sql grants the rights to look to the role celery_console, and those to act as well to celery_operator."
_REFUSED = "The database refused to answer. The console's log has the reason."


def in_log(error: Exception) -> str:
    """The reason in one line without values. A server's message may quote one, so its condition stands for it; without
    a server the message is libpq's, with an address and a user."""
    reason = primary(error)
    if isinstance(error, SchemaError):
        return str(error)
    if reason.condition is not None:
        return reason.condition
    return str(reason) if isinstance(error, LOST_CONNECTION) else type(error).__name__


def on_page(error: Exception) -> tuple[str, str]:
    """The heading, and what somebody can do."""
    if isinstance(error, SchemaError):
        text = str(error)
        text = f"{text[:1].upper()}{text[1:]}."
        if error.outdated:
            return "The tables do not fit", text
        return "The console's login may not do this", f"{text} {_ROLES}"
    code = getattr(error, "pgcode", None)
    if code in _LATE or (not code and "are busy: try again" in str(error)):
        return "No answer", _AGAIN
    return ("No database", _UNREACHABLE) if isinstance(error, LOST_CONNECTION) else ("No answer", _REFUSED)

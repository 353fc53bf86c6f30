"""Names that come from outside: of queues, exchanges, routing keys, hosts.

They are shown in logs, metrics, pages and terminals, and are labels of time series; so they must be printable, and not
longer than AMQP allows. The tables have the same limits as constraints.
"""

from __future__ import annotations

from kombu.exceptions import ChannelError

#: Characters, as in the column of stock Kombu.
MAX_QUEUE_LENGTH = 200
#: Characters of all other names: AMQP's short string.
MAX_LENGTH = 255


def check(
    what: str, name: str, max_length: int, method: tuple[int, int], method_name: str, *, min_length: int = 0
) -> None:
    """Check a name.

    Args:
        what: completes the sentence "the name of …".
        method: the AMQP method that was given the name, by numbers and by name.

    Raises:
        ChannelError: the name is not allowed; the text says why and does not quote it.
    """
    if len(name) < min_length:
        fault = "is empty"
    elif len(name) > max_length:
        fault = f"has {len(name)} characters, and at most {max_length} are allowed"
    elif not name.isprintable():
        fault = "has control characters, line breaks or other invisible characters, and only printable ones are allowed"
    else:
        return
    raise ChannelError(f"PRECONDITION_FAILED - the name of {what} {fault}", method, method_name, 406)


def printable(name: str) -> str:
    """`name`, shortened and with `?` for each character that is not printable, as the tables can hold it."""
    return "".join(one if one.isprintable() else "?" for one in name)[:MAX_QUEUE_LENGTH]

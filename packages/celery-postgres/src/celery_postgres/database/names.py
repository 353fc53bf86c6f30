"""Names that come from outside: of queues, exchanges, routing keys, hosts.

They are shown in logs, metrics, pages and terminals, and are the labels of time series; so they are printable, and not
longer than AMQP has them. The tables have the same limits as constraints.
"""

from __future__ import annotations

from kombu.exceptions import ChannelError

#: Characters, as stock's column.
LONGEST_QUEUE = 200
#: Of everything else: AMQP's short string.
LONGEST = 255


def check(what: str, name: str, longest: int, method: tuple[int, int], method_name: str) -> None:
    """Return if something may have that name.

    Parameters:
        what: completes the sentence "the name of …".

    Raises:
        ChannelError: it may not; the text says why and does not quote the name.
    """
    if len(name) > longest:
        fault = f"has at most {longest} characters, not {len(name)}"
    elif not name.isprintable():
        fault = "is printable: no control characters, line breaks or other invisible ones"
    else:
        return
    raise ChannelError(f"PRECONDITION_FAILED - the name of {what} {fault}", method, method_name, 406)


def printable(name: str) -> str:
    """`name`, or what of it may stand in a table."""
    return "".join(one if one.isprintable() else "?" for one in name)[:LONGEST_QUEUE]

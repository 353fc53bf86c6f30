"""Which TCP ports listen on this machine: the snapshot that the empirical validation takes (Linux only).

``python -m environment.ports --save FILE`` records what listens already. ``--since FILE --expect 5432 --expect
127.0.0.1:9540`` fails unless each expected port listens, and no other that did not listen before. Standard library
only.
"""

import ipaddress
import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from pathlib import Path

#: The state of a listening socket in /proc/net/tcp (include/net/tcp_states.h).
_LISTEN = "0A"


def listening(tables: Iterable[Path] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))) -> set[str]:
    """Every listening TCP socket of this network namespace as ``address:port``."""
    found = set()
    for table in tables:
        if table.exists():
            rows = [line.split() for line in table.read_text().splitlines()[1:]]
            found |= {_readable(row[1]) for row in rows if row[3] == _LISTEN}
    return found


def unexpected(now: set[str], before: set[str], expected: Sequence[str]) -> list[str]:
    """The faults, one line each.

    Args:
        expected: a port, on any address, or ``address:port``, on that address only.
    """

    def matches(entry: str, wanted: str) -> bool:
        return entry == wanted or (wanted.isdigit() and entry.rpartition(":")[2] == wanted)

    absent = [f"nothing listens on {wanted}" for wanted in expected if not any(matches(each, wanted) for each in now)]
    extra = [each for each in now - before if not any(matches(each, wanted) for wanted in expected)]
    return absent + [f"something unexpected listens on {each}" for each in sorted(extra)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Take or compare a snapshot; return 1 if there is a fault."""
    parser = ArgumentParser(prog="python -m environment.ports")
    parser.add_argument("--save", type=Path, metavar="FILE")
    parser.add_argument("--since", type=Path, metavar="FILE")
    parser.add_argument("--expect", action="append", default=[], metavar="[ADDRESS:]PORT")
    chosen = parser.parse_args(arguments)
    now = listening()
    before = set(json.loads(chosen.since.read_text())) if chosen.since else set()
    if chosen.save:
        chosen.save.write_text(json.dumps(sorted(now)))
    for each in sorted(now):
        print(f"{each}{'  (before)' * (each in before)}")
    wrong = unexpected(now, before, chosen.expect) if chosen.expect else []
    for line in wrong:
        print(f"ports: {line}", file=sys.stderr)
    return int(bool(wrong))


def _readable(entry: str) -> str:
    """``0100007F:1538`` is 127.0.0.1:5432: the kernel prints the address as 32-bit words of its own byte order."""
    address, port = entry.split(":")
    words = [bytes.fromhex(address[start : start + 8]) for start in range(0, len(address), 8)]
    raw = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    shown = ipaddress.ip_address(raw)
    return f"{f'[{shown}]' if shown.version == 6 else shown}:{int(port, 16)}"


if __name__ == "__main__":
    sys.exit(main())

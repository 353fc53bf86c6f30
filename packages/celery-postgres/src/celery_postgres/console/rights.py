"""Whether the console's login may act at all: if not, no page offers what the last step would refuse."""

from __future__ import annotations

import time
from dataclasses import replace

from celery_postgres.console.source import Source
from celery_postgres.database.driver import Error as DatabaseError
from celery_postgres.errors import SchemaError

#: For a viewer who would act otherwise.
ONLY_LOOKS = "This console only looks: to act, its login needs the rights of the role celery_operator."
#: Seconds for which an answer is good. A right that was granted meanwhile shows after them.
GOOD_S = 30.0


class Rights:
    """What the console shows, without a broker to act on while its login has no right to.

    Args:
        source: as it was given.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._looking = replace(source, broker=None)
        self._may_act = True
        self._asked_at = -GOOD_S

    def source(self) -> Source:
        """What is shown now. Asks the database, in a thread."""
        if self._source.broker is None:
            return self._source
        if time.monotonic() - self._asked_at >= GOOD_S:
            try:
                self._may_act = self._source.model.may_act()
                self._asked_at = time.monotonic()
            except (DatabaseError, SchemaError):
                pass  # the page reads the same database, and has more to say of it
        return self._source if self._may_act else self._looking

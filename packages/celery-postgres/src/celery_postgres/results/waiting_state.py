"""What `AsyncResult.state` says of a task that has a message and no stored state: the option `waiting_state`."""

from __future__ import annotations

import logging
from collections.abc import Callable

from celery import states

from celery_postgres.database.result_store import Outcome, ResultStore
from celery_postgres.errors import SchemaError

logger = logging.getLogger(__name__)


class WaitingState:
    """Reads the outcome of a task, or an outcome that stands for its message.

    Where the message cannot be seen, because the broker is in another database or the role may not read
    `kombu_message`, one warning says so, and the task is PENDING as without the option.

    Args:
        word: the state of a task that nobody has claimed; None leaves PENDING, and reads no message.
        possible: whether the broker is in the database of the results.
    """

    def __init__(self, word: str | None, possible: Callable[[], bool]) -> None:
        self._word = word
        self._possible = possible
        self._checked = False

    def read(self, store: ResultStore, task_id: str) -> Outcome | None:
        """The outcome; None for a task of which nothing is known."""
        if self._word is not None and not self._checked:
            self._checked = True
            if not self._possible():
                self._give_up("the broker is not this package's, or not in the database of the results")
        word = self._word  # once: another thread may give it up meanwhile
        if word is None:
            return store.result(task_id)
        try:
            found = store.result_or_message(task_id)
        except SchemaError as error:
            outcome = store.result(task_id)  # raises if results cannot be read either
            self._give_up(str(error))
            return outcome
        if isinstance(found, bool):
            return Outcome(task_id, word if found else states.RECEIVED, None, None)
        return found

    def _give_up(self, why: str) -> None:
        self._word = None
        logger.warning("`waiting_state` has no effect, and waiting tasks are PENDING: %s", why)

"""Why a message becomes a dead letter."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum

logger = logging.getLogger(__name__)


class DeadLetterKind(StrEnum):
    """The kinds of reasons; a value is the text of `kombu_dead_letter.reason`, with `%s` where the detail goes."""

    #: AMQP's `expiration` or `x-message-ttl` was over before a consumer claimed the message.
    EXPIRED = "expired"
    #: Its consumer rejected it.
    REJECTED = "rejected"
    #: An operator has blocked tasks of this name.
    BLOCKED = "stopped: %s"
    #: It was claimed as often as `max_failures` allows, and each of its consumers died or failed outside the task.
    FAILED = "failed %s times"
    #: The payload is not a Kombu message.
    UNREADABLE = "the payload is not %s"
    #: Its body cannot be decoded; the detail is the name of the exception.
    UNDECODABLE = "the message cannot be decoded: %s"
    #: Its body is larger than `max_decompressed`, or would take too much memory once parsed.
    TOO_LARGE = "unpacked it is larger than %s"
    TOO_MANY_MEMBERS = "its body has more than %s"
    #: It has a form that its consumer in Celery or Kombu does not know.
    MALFORMED = "%s"


@dataclass(frozen=True, slots=True)
class DeadLetterReason:
    """A kind of reason and, for most kinds, a detail: a task's name, a count, what is wrong. It never quotes a value.

    `str()` is the text in the database, by which `dead list --reason` finds it.
    """

    kind: DeadLetterKind
    detail: str = ""

    def __str__(self) -> str:
        return self.kind % self.detail if "%s" in self.kind else str(self.kind)


class FlawedMessageError(ValueError):
    """A message that no consumer can use. Its text is the reason's.

    Attributes:
        reason: why it becomes a dead letter.
    """

    def __init__(self, reason: DeadLetterReason) -> None:
        super().__init__(str(reason))
        self.reason = reason


def log_dead_letter(message: int, queue: str, reason: DeadLetterReason) -> None:
    """Report a dead letter. Without a stack, which could quote the message."""
    logger.error(
        "Message %d of queue %s becomes a dead letter: %s",
        message,
        queue,
        reason,
        extra={"message_id": message, "queue": queue, "reason": str(reason)},
    )


EXPIRED = DeadLetterReason(DeadLetterKind.EXPIRED)
REJECTED = DeadLetterReason(DeadLetterKind.REJECTED)

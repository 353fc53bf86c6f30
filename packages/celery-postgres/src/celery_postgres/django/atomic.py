"""Publishing within `transaction.atomic()` as part of the transaction."""

from __future__ import annotations

#: Django's setting: False publishes at once, also within `atomic`.
SETTING = "CELERY_POSTGRES_ATOMIC"

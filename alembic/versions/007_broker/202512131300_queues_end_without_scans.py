"""Let a queue end without a scan of all messages, and a publish without a lock on its queue.

The broker's script again (`alembic/frozen/broker_up.sql`; what exists stays): it makes the index of
what stock consumers took, and drops stock's foreign key from kombu_message to kombu_queue. There is nothing to undo
here: the downgrade of 202512131200, whose script it is, brings the key back and drops the index.
"""

from __future__ import annotations

from app.db.scripts import run_frozen

revision = "202512131300"
down_revision = "202512131200"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_frozen("broker_up")


def downgrade() -> None:
    """The key comes back with the downgrade of 202512131200."""

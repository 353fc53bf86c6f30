"""Compress payloads and results with lz4, where the server has it, or keep payloads as they are.

The statements are frozen in `alembic/frozen/compression.sql`, which gives the reasons. Only values that are stored from
now on are stored so.
"""

from __future__ import annotations

from app.db.scripts import run_frozen

revision = "202512171200"
down_revision = "202512161200"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_frozen("compression")


def downgrade() -> None:
    run_frozen("compression_down")

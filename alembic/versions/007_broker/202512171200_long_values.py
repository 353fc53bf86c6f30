"""Compress payloads and results with lz4, where the server has it, or keep payloads as they are.

The package's own script (`sql/compression.sql`, which says why), after its tables are all there. Only
what is stored from now on is stored so.
"""

from __future__ import annotations

from app.db.scripts import run_in_public
from celery_postgres.database.statements import script

revision = "202512171200"
down_revision = "202512161200"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_in_public(script("compression"))


def downgrade() -> None:
    run_in_public(script("compression_down"))

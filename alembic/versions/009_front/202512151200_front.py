"""What the HTTP front needs: API keys, and which tenant submitted which task.

The statements are in the two .sql files beside this one. The downgrade drops the tables: every key is void then, and
nobody owns the tasks that were submitted over HTTP.
"""

from __future__ import annotations

from app.db.scripts import run_beside

revision = "202512151200"
down_revision = "202512141200"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__, ".up.sql")


def downgrade() -> None:
    run_beside(__file__, ".down.sql")

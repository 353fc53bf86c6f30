"""Give waiting and claimed messages an index by task each, so that a claim costs the same however many wait."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611301435"
down_revision = "202611301430"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(18)


def downgrade() -> None:
    downgrade_package(17)

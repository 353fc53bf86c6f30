"""Remember when tasks were published and begun, and the attempts that did not succeed."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611301330"
down_revision = "202611301130"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(13)


def downgrade() -> None:
    downgrade_package(12)

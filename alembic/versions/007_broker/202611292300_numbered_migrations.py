"""Record the package's tables as its own numbered migrations, of which 8 is what all revisions before have made.

From here on a change of the package's tables is a migration of the package, and a revision calls its number. What is
still to be done on a database of the revision before: the limits are validated, which reads the tables and blocks no
worker. The downgrade leaves the tables to the revisions before, and drops the record.
"""

from __future__ import annotations

from alembic import op

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611292300"
down_revision = "202611291900"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(8)


def downgrade() -> None:
    downgrade_package(8)
    op.execute("DROP TABLE public.celery_postgres_migration")

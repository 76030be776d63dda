"""which registered data sets a worker has"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("worker", sa.Column("datasets", sa.JSON(), server_default="{}", nullable=False))


def downgrade() -> None:
    op.drop_column("worker", "datasets")

"""chunks can be compacted, and know their ends and extremes"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATISTICS = (
    sa.Column("min_step", sa.BigInteger(), nullable=True),
    sa.Column("max_step", sa.BigInteger(), nullable=True),
    sa.Column("first", sa.Float(), nullable=True),
    sa.Column("last", sa.Float(), nullable=True),
    sa.Column("nonfinite", sa.Integer(), nullable=True),
)


def upgrade() -> None:
    op.add_column("run", sa.Column("compacted_seq", sa.Integer(), server_default="0", nullable=False))
    op.create_index(
        "ix_run_uncompacted",
        "run",
        ["seq"],
        sqlite_where=sa.text("seq > compacted_seq"),
        postgresql_where=sa.text("seq > compacted_seq"),
    )
    # SQLite finds a column by walking over those before it: statistics must not lie behind the blobs.
    sqlite = op.get_bind().dialect.name == "sqlite"
    with op.batch_alter_table("metric_chunk", recreate="always" if sqlite else "never") as batch:
        for column in STATISTICS:
            batch.add_column(column, insert_before="steps" if sqlite else None)
        batch.add_column(sa.Column("marks", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_index("ix_run_uncompacted", "run")
    op.drop_column("run", "compacted_seq")
    with op.batch_alter_table("metric_chunk") as batch:
        batch.drop_column("marks")
        for column in reversed(STATISTICS):
            batch.drop_column(column.name)

"""experiments with their newest run, from one index"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index(op.f("ix_run_experiment"), table_name="run")
    op.create_index(op.f("ix_run_experiment_id"), "run", ["experiment", "id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_run_experiment_id"), table_name="run")
    op.create_index(op.f("ix_run_experiment"), "run", ["experiment"])

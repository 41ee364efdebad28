"""Indexes that a page of the API is read from in its order."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TOLD_OF_TASK = sa.text("kind IN ('assigned', 'lost', 'failed', 'undone')")


def upgrade() -> None:

    op.drop_index("ix_work_batch", "work")
    op.create_index("ix_work_batch_job", "work", ["batch", "job"])
    op.drop_index("ix_segment_job", "segment")
    op.create_index("ix_segment_job_batch_task_index", "segment", ["job", "batch", "task", "index"])
    op.create_index(
        "ix_log_task", "log", ["job", "task", "seq"], sqlite_where=TOLD_OF_TASK, postgresql_where=TOLD_OF_TASK
    )

"""Jobs say how many of a round's tasks one owner, and one subnet, may do; works say where their nodes were."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("round_tasks", "owner_cap", "subnet_cap"):
        op.add_column("job", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("work", sa.Column("subnet", sa.Text(), nullable=False, server_default=""))

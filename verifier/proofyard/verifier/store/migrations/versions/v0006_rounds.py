"""Jobs whose rounds do not wait for everybody have so many tasks a round."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("workers", sa.BigInteger(), nullable=False, server_default="0"))

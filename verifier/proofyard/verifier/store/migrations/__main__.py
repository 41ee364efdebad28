"""Draft a version from what the tables have and the newest version lacks; its argument says why."""

import sys
import tempfile
from pathlib import Path

from alembic import command
from sqlalchemy import create_engine

from proofyard.verifier.store.migrations import config, newest, upgrade


def draft(why: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{Path(folder) / 'draft.db'}")
        upgrade(engine)
        with engine.connect() as connection:
            number = int(newest()) + 1
            command.revision(config(connection), why, autogenerate=True, rev_id=f"{number:04}")
        engine.dispose()


if __name__ == "__main__":
    draft(sys.argv[1])

"""The schema of a verifier's database, version by version."""

from sqlalchemy import Engine
from sqlmodel import SQLModel


def upgrade(engine: Engine) -> None:
    """Bring a database to the newest version."""
    SQLModel.metadata.create_all(engine)

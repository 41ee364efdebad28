"""The schema of a verifier's database, version by version (Alembic); `versions` holds a file for each.

A change of the engine's rows or of the shell's tables takes a new version:
`python -m proofyard.verifier.store.migrations "why"` drafts it from what changed. A version that went out stays as it
is.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect

from proofyard.protocol.types import ProofyardError

_LOCK = 0x70726F6F66
"""Of PostgreSQL: one process upgrades at a time."""
_VERSIONS = "alembic_version"


class SchemaError(ProofyardError):
    """The database has tables that this version of the software does not know."""

    exit_code = 2


def upgrade(engine: Engine) -> None:
    """Bring a database to the newest version, all of it or nothing. Raises `SchemaError` for one of another software
    or of a newer version of this."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        if not _is_newest(connection):
            command.upgrade(config(connection), "head")
        connection.commit()


def newest() -> str:
    """The version that this software works with."""
    head = _scripts().get_current_head()
    assert head is not None
    return head


def version_of(connection: Connection) -> str | None:
    """The version that a database has, None where it has none."""
    return MigrationContext.configure(connection).get_current_revision()


def config(connection: Connection) -> Config:
    """Alembic's settings for an open connection; its transaction is the caller's."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    made.set_main_option("file_template", "v%%(rev)s_%%(slug)s")
    made.attributes["connection"] = connection
    return made


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(Path(__file__).parent))


def _is_newest(connection: Connection) -> bool:
    found = version_of(connection)
    if found is None:
        foreign = sorted(set(inspect(connection).get_table_names()) - {_VERSIONS})
        if foreign:
            raise SchemaError(
                f"the database has tables ({', '.join(foreign[:3])}) and no version: it is an older verifier's, or "
                "another program's; finish its jobs with what made it, then name an empty database"
            )
        return False
    if found not in {script.revision for script in _scripts().walk_revisions()}:
        raise SchemaError(
            f"the database has version {found}, and this software knows none after {newest()}: a newer one wrote it; "
            "install that again, or restore a backup of the database from before"
        )
    return found == newest()

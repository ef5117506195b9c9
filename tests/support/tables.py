"""What all tables of the database hold."""

from typing import Protocol

from sqlalchemy import text

from celeriac.db.engine import Database
from celeriac.db.schema import metadata


class _HasDatabase(Protocol):
    @property
    def database(self) -> Database: ...


def found_in_tables(core: _HasDatabase, *parts: str) -> list[str]:
    """Return the tables that have one of the texts in any column of any row."""
    found = []
    with core.database.autocommit() as connection:
        for table in metadata.sorted_tables:
            for part in parts:
                query = f"SELECT count(*) FROM {table.name} t WHERE strpos(t::text, :part) > 0"
                if connection.execute(text(query), {"part": part}).scalar_one():
                    found.append(table.name)
    return found

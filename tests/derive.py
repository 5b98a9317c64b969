"""The files under db/ that follow from others. `python -m tests.derive` writes them, a test compares.

From db/functions the migration that creates them (until the first release: a released migration is frozen). From
db/migrations db/schema.sql for reading, and for sqitch the plan with a deploy, a revert and a verify script for each.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from service import embedded, migrate

DB = migrate.MIGRATIONS.parent
SCHEMA = DB / "schema.sql"
SQITCH = DB / "sqitch"
FUNCTIONS = migrate.MIGRATIONS / "20261101000003_functions.sql"

SCHEMA_HEAD = """\
-- The whole schema in one place: what a fresh migration dumps. Derived from migrations/ by python -m tests.derive.
-- For reading, never for deploying: the dump leaves out owners and privileges, so loading it would hand every
-- SECURITY DEFINER function to PUBLIC. Deploy with dbmate up or sqitch deploy. The next statements stop a load.
do $$ begin raise exception 'db/schema.sql is for reading, it has no privileges; deploy with dbmate up'; end $$;
\\quit

"""
FUNCTIONS_MIGRATION = """\
-- The functions as they were when this was released. Their present bodies: db/functions/.

-- migrate:up
select set_config('search_path', format('%I, pg_temp', current_schema()), true),
       set_config('role', role_name('owner'), true);

{bodies}
reset role;

-- migrate:down
select set_config('search_path', format('%I, pg_temp', current_schema()), true);
drop function
    {names};
"""
PLAN_HEAD = "%syntax-version=1.0.0\n%project=payment_webhooks\n\n"
PLANNER = "payment-webhooks <payment-webhooks@localhost>"  # part of a change's id, so it stays as it is
VERIFY = """\
-- Verifies that what migrations/{name}.sql made is there. Derived.
begin;
create temp table expected (object text);
copy expected from stdin;
{objects}
\\.
\\ir ../verify.sql
rollback;
"""


def tool(bin_dir: Path, *command: str, url: str = "", cwd: Path = DB.parent) -> subprocess.CompletedProcess[str]:
    """Run a command line tool with the PostgreSQL programs of `bin_dir`; `url` goes by the environment."""
    path = os.pathsep.join([str(bin_dir), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DBMATE_", "PG"))}
    environment |= {"PATH": path, "DATABASE_URL": url}
    return subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, check=False)


async def derived(server: embedded.Server) -> dict[Path, str]:
    """Every derived file with the content it should have. Makes two databases on `server`, of the newest PostgreSQL."""
    return {FUNCTIONS: functions_migration(), SCHEMA: await _schema(server)} | await _sqitch(server)


def present() -> set[Path]:
    """The derived files that exist."""
    return {FUNCTIONS, SCHEMA, SQITCH / "sqitch.plan"} | {path for part in _parts() for path in part.iterdir()}


def functions_migration() -> str:
    """The functions in an order in which they can be created: a body of one expression is bound when it is.

    schema_version() comes with the newest migration.
    """
    bodies = {path.stem: path.read_text() for path in sorted((DB / "functions").glob("*.sql"))}
    del bodies["schema_version"]
    names = sorted(bodies, key=lambda name: "as $$" in bodies[name])
    return FUNCTIONS_MIGRATION.format(
        bodies="\n".join(bodies[name] for name in names), names=",\n    ".join(reversed(names))
    )


async def _schema(server: embedded.Server) -> str:
    url = server.url_of("derive_schema")
    await migrate.up(url)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "schema.sql"
        ended = tool(server.bin_dir, "dbmate", "--schema-file", str(file), "dump", url=url)
        if ended.returncode or not file.exists():
            raise RuntimeError(f"dbmate dump failed: {ended.stderr}")
        return SCHEMA_HEAD + re.sub(r"^-- Dumped .*\n", "", file.read_text(), flags=re.MULTILINE)


async def _sqitch(server: embedded.Server) -> dict[Path, str]:
    """What each migration made is what is there after it and was not before, less what later ones take away again."""
    plan = PLAN_HEAD
    files: dict[Path, str] = {}
    made: dict[str, list[str]] = {}
    before: list[str] = []
    admin = await asyncpg.connect(server.url_of("postgres"))
    await admin.execute("create database derive_sqitch")
    await admin.close()
    connection = await asyncpg.connect(server.url_of("derive_sqitch"))
    for migration in sorted(migrate.MIGRATIONS.glob("*.sql")):
        name, text = migration.stem, migration.read_text()
        planned = datetime.strptime(name.split("_")[0], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        plan += f"{name} {planned:%Y-%m-%dT%H:%M:%SZ} {PLANNER}\n"
        for part, script in (("deploy", "up"), ("revert", "down")):
            files[SQITCH / part / f"{name}.sql"] = f"\\set change {name}\n\\ir ../{script}.sql\n"
        await connection.execute(f"begin; {text.split('-- migrate:down')[0]}; commit")
        now = await objects(connection)
        made[name] = [line for line in now if line not in before]
        before = now
    await connection.close()
    for name, lines in made.items():
        kept = "\n".join(line for line in lines if line in before)
        files[SQITCH / "verify" / f"{name}.sql"] = VERIFY.format(name=name, objects=kept)
    return files | {SQITCH / "sqitch.plan": plan}


async def objects(connection: "asyncpg.Connection[asyncpg.Record]") -> list[str]:
    """The objects of the schema, as sqitch/verify.sql calls them."""
    await connection.execute("begin; create temp table expected (object text)")
    await connection.execute((SQITCH / "verify.sql").read_text())
    rows = await connection.fetch('select object from present order by object collate "C"')
    await connection.execute("rollback")
    return [row["object"] for row in rows]


def _parts() -> list[Path]:
    return [SQITCH / part for part in ("deploy", "revert", "verify")]


async def _write() -> None:
    FUNCTIONS.write_text(functions_migration())
    with tempfile.TemporaryDirectory() as folder, embedded.start(Path(folder), settings={"fsync": "off"}) as server:
        files = await derived(server)
    for part in _parts():
        part.mkdir(exist_ok=True)
    for path in present() - files.keys():
        path.unlink()
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    asyncio.run(_write())

"""Linters of the SQL functions as they are deployed: pgspot for search paths, plpgsql_check for bodies and plans.

    PG_BIN_DIR=/usr/lib/postgresql/15/bin python -m tests.lint_sql

It needs a PostgreSQL with the extension plpgsql_check (Debian: postgresql-15-plpgsql-check). pgspot does not read
`set search_path from current`, so it is given the stored definitions, in which the path is spelled out.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg

from service import embedded, migrate

DEFINITIONS = """
    select p.proname as name, pg_get_functiondef(p.oid) as definition
    from pg_proc p join pg_language l on l.oid = p.prolang
    where p.pronamespace = current_schema()::regnamespace
      -- pgspot 0.9.4 cannot read a body of one expression (`return …`): bound when it is created, it needs no path.
      and not (p.prosqlbody is not null and not p.prosecdef)
"""
FINDINGS = """
    select p.proname || coalesce(' line ' || c.lineno, '') as place, c.level, c.message, c.detail
    from pg_proc p
    join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'
    left join lateral (select distinct on (g.tgrelid) g.tgrelid, g.tgoldtable, g.tgnewtable from pg_trigger g
                       where g.tgfoid = p.oid order by g.tgrelid) t on true
    cross join lateral linter.plpgsql_check_function_tb(
        p.oid, coalesce(t.tgrelid, 0), oldtable => t.tgoldtable, newtable => t.tgnewtable,
        other_warnings => true, extra_warnings => true, security_warnings => true,
        performance_warnings => false    -- int against bigint, and that what locks rows should be STABLE
    ) c
    where p.pronamespace = current_schema()::regnamespace
      -- := '{}'
      and not (c.level = 'warning' and c.sqlstate = '42804' and c.detail like 'cast "text" value to %[]" type')
      -- It is given a list of privileges, and no role may call it.
      and not (c.level = 'security' and p.proname = 'grant_to')
    order by 1
"""


async def check_bodies(url: str) -> tuple[dict[str, str], list[str]]:
    """Definitions, in a schema of our own because pgspot trusts no other, and what plpgsql_check finds."""
    url += "&options=-csearch_path%3Dbilling"
    await migrate.up(url)
    db = await asyncpg.connect(url)
    try:
        definitions = {row["name"]: row["definition"] for row in await db.fetch(DEFINITIONS)}
        await db.execute("create schema linter; create extension plpgsql_check schema linter")
        return definitions, ["plpgsql_check: " + ", ".join(filter(None, row)) for row in await db.fetch(FINDINGS)]
    finally:
        await db.close()


def check_paths(definitions: dict[str, str], folder: Path) -> list[str]:
    """What pgspot finds; it also fails where it cannot read a function."""
    for name, definition in definitions.items():
        (folder / f"{name}.sql").write_text(
            f"create schema billing;\nset search_path to billing, pg_temp;\n{definition};\n"
        )
    pgspot = Path(sys.executable).with_name("pgspot")
    files = sorted(folder.glob("*.sql"))
    done = subprocess.run([pgspot, *files], capture_output=True, text=True, check=False)
    print(f"pgspot read {len(files)} functions. {done.stdout.splitlines()[-1]}")
    return [done.stdout, done.stderr] if done.returncode else []


def main() -> None:
    """Exit status 1 when there is a finding."""
    with tempfile.TemporaryDirectory(prefix="lint-sql-") as folder:
        data, bin_dir = Path(folder, "data"), Path(os.environ["PG_BIN_DIR"])
        with embedded.start(data, bin_dir=bin_dir, settings={"fsync": "off"}) as server:
            definitions, found = asyncio.run(check_bodies(server.url))
        found += check_paths(definitions, Path(folder))
    print("\n".join(found) or f"plpgsql_check read {len(definitions)} functions and finds nothing.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

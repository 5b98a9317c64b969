"""The migrations run by dbmate, once each, whoever starts them."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from service import embedded, migrate

MIGRATION = """-- migrate:up
select pg_sleep(0.3);
create table made (id int);
-- migrate:down
drop table made;
"""


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    (tmp_path / "20260101000000_first.sql").write_text(MIGRATION)
    return tmp_path


async def schemas_with_table(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("select schemaname from pg_tables where tablename = 'made' order by 1")
        return [row["schemaname"] for row in rows]
    finally:
        await connection.close()


async def test_four_at_once_make_the_database_and_apply_each_migration_once(
    cluster: embedded.Server, migrations: Path
) -> None:
    url = cluster.url_of("migrate at once")
    await asyncio.gather(*(migrate.up(url, migrations) for _ in range(4)))
    assert await schemas_with_table(url) == ["public"]


@pytest.mark.parametrize(
    ("options", "schema"),
    [("billing", "billing"), ("Billing2,public", "billing2"), ('"My Merchant", public', "My Merchant")],
)
async def test_a_schema_that_the_url_names_is_made_and_migrated_by_itself(
    cluster: embedded.Server, migrations: Path, options: str, schema: str
) -> None:
    search_path = options.replace('"', "%22").replace(" ", "%5C%20")
    url = cluster.url_of(f"in {schema}")
    await migrate.up(url, migrations)
    in_schema = f"{url}&options=-csearch_path%3D{search_path}"
    await asyncio.gather(migrate.up(in_schema, migrations), migrate.up(in_schema, migrations))
    assert await schemas_with_table(url) == sorted(["public", schema])


async def test_a_failing_migration_tells_what_dbmate_said_and_is_rolled_back(
    cluster: embedded.Server, migrations: Path
) -> None:
    url = cluster.url_of("failing")
    (migrations / "20260101000001_second.sql").write_text(
        "-- migrate:up\ncreate table half (); selec 1;\n-- migrate:down\n"
    )
    with pytest.raises(migrate.MigrationError, match=r"20260101000001_second.*\n.*syntax error") as caught:
        await migrate.up(url, migrations)
    assert "Mend" in str(caught.value)
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("select to_regclass('made') is not null and to_regclass('half') is null")
    finally:
        await connection.close()


async def test_a_migration_older_than_the_newest_applied_one_is_refused(
    cluster: embedded.Server, migrations: Path
) -> None:
    url = cluster.url_of("out of order")
    await migrate.up(url, migrations)
    (migrations / "20250101000000_late.sql").write_text("-- migrate:up\nselect 1;\n-- migrate:down\n")
    with pytest.raises(migrate.MigrationError, match="20250101000000"):
        await migrate.up(url, migrations)


async def test_settings_of_dbmate_in_the_environment_do_not_lead_elsewhere(
    cluster: embedded.Server, migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nowhere.invalid/nothing")
    monkeypatch.setenv("DBMATE_MIGRATIONS_DIR", "/nowhere")
    monkeypatch.setenv("DBMATE_MIGRATIONS_TABLE", "elsewhere")
    url = cluster.url_of("environment")
    await migrate.up(url, migrations)
    assert await schemas_with_table(url) == ["public"]


async def test_a_missing_folder_of_migrations_is_named(cluster: embedded.Server, tmp_path: Path) -> None:
    with pytest.raises(migrate.MigrationError, match=r"no folder .*missing"):
        await migrate.up(cluster.url_of("postgres"), tmp_path / "missing")

import time, asyncpg
async def test_role(connect, db):
    print(await db.fetch("select table_name from information_schema.tables where table_schema='public'"))
    try:
        c = await connect("server"); print(await c.fetchval("select session_user::text"))
    except Exception as e: print("ROLE", repr(e))
async def test_two(db): assert await db.fetchval("select 1")==1
async def test_clones(cluster, template):
    a = await asyncpg.connect(cluster.url_of("postgres"))
    for st in ("wal_log","file_copy"):
        t=time.time()
        for i in range(10): await a.execute(f"create database c{i} template {template} strategy {st}")
        print(st, (time.time()-t)/10); t=time.time()
        for i in range(10): await a.execute(f"drop database c{i} with (force)")
        print("drop", (time.time()-t)/10)
    await a.close()

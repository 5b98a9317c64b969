"""The plans of the statements that every batch runs, as auto_explain saw them, and none of them a sequential scan.

The full look of process_payment_queue() is no hot statement: it reads all that is parked, on purpose.
"""

import re

import asyncpg

from tests.benchmarks.load import APPLY, BATCH, CLAIM, ENQUEUE, Connection, Target, make_batches, progress


async def hot_plans(target: Target) -> tuple[list[str], list[str]]:
    """One batch each of apply, enqueue and process: their plans, and each sequential scan of a table of ours."""
    db: Connection = await asyncpg.connect(target.url)
    said: list[str] = []
    lines: list[str] = []
    scans: list[str] = []
    try:
        tables = {r["relname"] for r in await db.fetch("select relname from pg_stat_user_tables")}
        await db.execute(
            "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_analyze = on;"
            "set auto_explain.log_buffers = on; set auto_explain.log_nested_statements = on;"
            "set auto_explain.log_parameter_max_length = 0; set client_min_messages = log"
        )
        batches = make_batches(3 * BATCH, BATCH, target.invoices, references=True)
        await db.fetch(APPLY, *batches[0])  # plans are made once a connection: the second batch is as all that follow
        await db.fetch(ENQUEUE, *batches[1])
        await db.fetch("select * from process_payment_queue($1)", CLAIM)
        db.add_log_listener(lambda _, message: said.append(str(getattr(message, "message", message))))
        for name, statement, arguments in (
            ("apply_payment_events, 50 events", APPLY, make_batches(BATCH, BATCH, target.invoices, references=True)[0]),
            ("enqueue_payment_events, 50 events", ENQUEUE, batches[2]),
            ("process_payment_queue, 50 events", "select * from process_payment_queue($1)", (CLAIM,)),
        ):
            said.clear()
            await db.fetch(statement, *arguments)
            ours = [
                plan
                for plan in said
                if "from parked_events w\n        where (p_ids is null" not in plan
                and tables & set(re.findall(r"(?:Insert|Update|Delete|Scan|using \w+) on (\w+)", plan))
            ]
            plans = {plan.partition("  plan:\n")[2].partition("\n  ")[0]: plan for plan in ours}.values()
            progress(f"plans: {name}: {len(plans)} statements on our tables")
            lines += [f"### {name}", ""]
            for plan in plans:
                lines += ["```", *(line.rstrip() for line in plan.splitlines()), "```", ""]
                scans += [scan for scan in re.findall(r"Seq Scan on (\w+)", plan) if scan in tables]
    finally:
        await db.close()
    return lines, scans

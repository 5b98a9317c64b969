"""Providers whose money has to be fetched, over HTTP and PostgreSQL: applied once whatever the API does."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.calls import add_invoice, counts
from tests.conftest import Connection
from tests.http_service import Client, Process, serving
from tests.provider_api import ProviderApi, provider_api
from tests.providers import example

PAYMENT = {"amount": 5000, "currency": "USD", "metadata": {"invoice_id": "42"}}
MOLLIE = {
    "id": "tr_1", "mode": "live", "status": "paid", "amount": {"value": "30.00", "currency": "USD"},
    "metadata": {"invoice_id": "42"}, "paidAt": "2026-09-21T14:13:20+00:00",
}  # fmt: skip


@pytest.fixture
async def provider() -> AsyncIterator[ProviderApi]:
    async with provider_api() as provider:
        yield provider


@pytest.fixture
async def client(database_url: str, db: Connection, provider: ProviderApi) -> AsyncIterator[Client]:
    """A server for GoCardless and classic Mollie, with invoice 42 over 100.00 USD."""
    await add_invoice(db, 42)
    mollie = type(example("mollie")).model_validate({
        "connection": "mollie", "classic": True, "api_key": "live_key_of_ours", "api_url": provider.url
    })  # fmt: skip
    connections = (example("gocardless", api_url=provider.url), mollie)
    async with serving(database_url, allow_unsigned=False, connections=connections) as client:
        yield client


async def query(url: str, text: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchrow(text)
    finally:
        await connection.close()


async def gocardless(client: Client, *names: str) -> tuple[int, Any]:
    events = [
        {"id": f"EV_{name}", "resource_type": "payments", "action": "confirmed", "links": {"payment": name}}
        for name in names
    ]
    body = json.dumps({"events": events}).encode()
    headers = dict(example("gocardless").sign(body, time.time()))
    status, answer, _ = await client.post("/webhooks-sync/gocardless", body, headers)
    return status, answer


async def test_of_a_batch_what_the_api_tells_is_applied_and_the_rest_is_kept(
    client: Client, db: Connection, provider: ProviderApi
) -> None:
    provider.answers |= {f"/payments/PM{n}": {"payments": PAYMENT | {"id": f"PM{n}"}} for n in (1, 2)}
    provider.answers["/payments/PM3"] = 500
    assert await gocardless(client, "PM1", "PM2", "PM3") == (200, {"outcomes": ["applied", "applied", "not_fetched"]})
    provider.answers["/payments/PM3"] = 404
    status, answer = await gocardless(client, "PM1", "PM2", "PM3", "PM1")
    assert status == 200
    assert answer["outcomes"] == ["duplicate", "duplicate", "duplicate", "not_found"]
    assert await db.fetchval("select amount_paid from invoices where id = 42") == 10000
    assert await counts(db, "payment_events", "dead_letters") == [2, 2]


async def test_what_the_api_did_not_tell_is_asked_for_again_until_it_does(
    database_url: str, db: Connection, provider: ProviderApi, tmp_path: Path
) -> None:
    await add_invoice(db, 42)
    provider.answers["/payments/PM1"] = {"payments": PAYMENT | {"id": "PM1"}}
    provider.answers |= {"/payments/PM2": 500, "/payments/PM3": 500}
    file = tmp_path / "connections.toml"
    file.write_text(
        f"""
        [gocardless]
        adapter = "gocardless"
        webhook_secrets = ["{example("gocardless").webhook_secrets[0]}"]
        access_token = "live_token"
        api_url = "{provider.url}"
        """
    )
    server = Process("service.server", database_url, CONNECTIONS_FILE=str(file), POLL_INTERVAL="0.1")
    async with aiohttp.ClientSession() as session:
        client = await server.up(session)
        assert await gocardless(client, "PM1", "PM2", "PM3") == (200, {"outcomes": ["applied", "not_fetched"]})
        await db.execute("update dead_letters set died_at = died_at - interval '5 s'")  # due now, and in 5 s again
        async with asyncio.timeout(10):
            while provider.paths.count("/payments/PM2") < 2:
                await asyncio.sleep(0.05)
        assert await db.fetchval("select attempts from dead_letters where resolution is null") == 1
        provider.answers["/payments/PM2"] = {"payments": PAYMENT | {"id": "PM2"}}
        await db.execute("update dead_letters set died_at = died_at - interval '5 s'")
        async with asyncio.timeout(10):  # though of PM3 nothing is told
            while await counts(db, "payment_events") != [2]:
                await asyncio.sleep(0.05)
        provider.answers["/payments/PM3"] = {"payments": PAYMENT | {"id": "PM3"}}
        await db.execute("update dead_letters set died_at = died_at - interval '10 s'")
        async with asyncio.timeout(10):
            while not await db.fetchval("select exists (select from dead_letters where resolution = 'dismissed')"):
                await asyncio.sleep(0.05)
        status, said = await server.end()
    assert status == 0, said
    assert "Traceback" not in said
    await db.fetch("select process_payment_queue()")
    assert await db.fetchval("select amount_paid from invoices where id = 42") == 15000
    assert await counts(db, "payment_events", "dead_letters") == [3, 1]


async def test_a_delivery_is_claimed_by_one_at_growing_distances_for_two_days(
    database_url: str, db: Connection
) -> None:
    store = "select store_dead_letter($1, $2, 'no answer', 'body', 'text/x')"
    letter = await db.fetchval(store, "gocardless", "not_fetched")
    await db.fetch(store, "mollie", "not_fetched")
    other = await db.fetchval(store, "gocardless", "wrong_mode")

    async def claimed_at(seconds: float) -> int:
        """How many of three that try at once claim it, so long after it came."""
        await db.execute("update dead_letters set died_at = now() - make_interval(secs => $1)", seconds)
        claim = "select letter_id, body, content_type from claim_unfetched_delivery('gocardless')"
        rows = [tuple(row) for row in await asyncio.gather(*(query(database_url, claim) for _ in range(3)))]
        assert set(rows) <= {(letter, b"body", "text/x"), (None, None, None)}
        return rows.count((letter, b"body", "text/x"))

    for attempt in range(16):
        due = 5 * 2**attempt
        assert [await claimed_at(due - 2), await claimed_at(due)] == [0, 1]
    assert await claimed_at(10**7) == 0
    for _ in range(2):
        await db.execute("select close_fetched_delivery(id) from dead_letters where id = any($1)", [letter, other])
    found = await db.fetch("select id, resolution from dead_letters where connection = 'gocardless' order by id")
    assert [tuple(row) for row in found] == [(letter, "dismissed"), (other, None)]
    assert await counts(db, "operator_actions") == [1]


async def test_what_servers_still_ask_for_counts_as_dead_after_ten_minutes(db: Connection) -> None:
    letter = await db.fetchval("select store_dead_letter('gocardless', 'not_fetched', 'no answer', 'body')")
    await db.fetch("select store_dead_letter('gocardless', 'wrong_mode', 'a test event', 'another body')")
    dead = "select dead from queue_health"
    assert await db.fetchval(dead) == 1
    await db.execute("update dead_letters set died_at = now() - interval '601 s' where id = $1", letter)
    assert await db.fetchval(dead) == 2


async def test_a_classic_webhook_is_applied_once_and_junk_leaves_nothing(
    client: Client, db: Connection, provider: ProviderApi
) -> None:
    provider.answers["/v2/payments/tr_1"] = MOLLIE
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for body, status, outcomes in (
        (b"id=tr_1", 200, ["applied"]),
        (b"id=tr_1", 200, ["duplicate"]),
        (b"id=tr_2", 200, []),
        (b"id=ord_1", 200, []),
        (b"id=tr_1&x", 401, None),
        (b"", 401, None),
    ):
        answered, answer, _ = await client.post("/webhooks-sync/mollie", body, form)
        assert (answered, answer.get("outcomes")) == (status, outcomes)
    refund = {"id": "re_1", "status": "refunded", "amount": {"value": "5.00", "currency": "USD"}}
    provider.answers["/v2/payments/tr_1"] = MOLLIE | {"_embedded": {"refunds": [refund]}}
    for last in ("applied", "duplicate"):
        _, answer, _ = await client.post("/webhooks-sync/mollie", b"id=tr_1", form)
        assert answer["outcomes"] == ["duplicate", last]
    paid = await db.fetchrow("select amount_paid, amount_refunded from invoices where id = 42")
    assert paid is not None
    assert tuple(paid) == (3000, 500)
    assert await counts(db, "payment_events", "dead_letters") == [2, 0]

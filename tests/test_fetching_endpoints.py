"""Providers whose money has to be fetched, over real HTTP and a real PostgreSQL: applied once, or asked for again."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.calls import add_invoice, counts
from tests.conftest import Connection
from tests.http_service import Client, serving
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


async def gocardless(client: Client, *names: str) -> tuple[int, Any]:
    events = [
        {"id": f"EV_{name}", "resource_type": "payments", "action": "confirmed", "links": {"payment": name}}
        for name in names
    ]
    body = json.dumps({"events": events}).encode()
    headers = dict(example("gocardless").sign(body, time.time()))
    status, answer, _ = await client.post("/webhooks-sync/gocardless", body, headers)
    return status, answer


async def test_a_batch_is_applied_whole_or_comes_again(client: Client, db: Connection, provider: ProviderApi) -> None:
    provider.answers |= {f"/payments/PM{n}": {"payments": PAYMENT | {"id": f"PM{n}"}} for n in (1, 2)}
    provider.answers["/payments/PM3"] = 500
    assert (await gocardless(client, "PM1", "PM2", "PM3"))[0] == 503
    assert await counts(db, "payment_events", "dead_letters") == [0, 0]
    provider.answers["/payments/PM3"] = 404
    for outcome in ("applied", "duplicate"):
        status, answer = await gocardless(client, "PM1", "PM2", "PM3", "PM1")
        assert status == 200
        assert answer["outcomes"][1:3] == [outcome, "not_found"]
    assert await db.fetchval("select amount_paid from invoices where id = 42") == 10000
    assert await counts(db, "payment_events", "dead_letters") == [2, 1]


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

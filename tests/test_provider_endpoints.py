"""A provider's webhook over real HTTP and a real PostgreSQL, Stripe's for all: whatever is authentic is kept."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.calls import add_invoice, counts, whereabouts
from tests.conftest import Connect, Connection
from tests.http_service import Client, free_port, serving
from tests.providers import example

STRIPE = example("stripe")
STRIPE_TEST = example("stripe", connection="stripe-test", mode="test", webhook_secrets=["whsec_of_the_test_mode"])
QUEUE = "/webhooks/stripe"
SYNC = "/webhooks-sync/stripe"


@pytest.fixture
async def client(database_url: str, db: Connection) -> AsyncIterator[Client]:
    """A server for two Stripe connections and nothing else, with invoice 42 over 100.00 USD."""
    await add_invoice(db, 42)
    async with serving(database_url, allow_unsigned=False, connections=(STRIPE, STRIPE_TEST)) as client:
        yield client


def payment(event_id: str = "evt_1", **fields: Any) -> bytes:
    intent = {"id": "pi_1", "amount_received": 5000, "currency": "usd", "metadata": {"invoice_id": "42"}} | fields
    return event("payment_intent.succeeded", intent, id=event_id)


def event(kind: str, thing: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"id": "evt_1", "type": kind, "livemode": True, "data": {"object": thing}} | fields).encode()


async def send(client: Client, path: str, body: bytes) -> list[str]:
    """The outcomes, of a request that is answered 200."""
    status, answer, _ = await client.post(path, body, dict(STRIPE.sign(body, time.time())))
    assert status == 200
    outcomes: list[str] = answer["outcomes"]
    return outcomes


async def test_a_payment_is_queued_or_applied_at_once_and_only_once(client: Client, db: Connection) -> None:
    assert await send(client, QUEUE, payment()) == ["queued"]
    assert await send(client, QUEUE, payment()) == ["duplicate"]
    assert await send(client, SYNC, payment()) == ["applied"]
    assert await send(client, SYNC, payment("evt_2")) == ["duplicate"]  # 95: the same movement
    assert await db.fetchval("select status from invoices where id = 42") == "partially_paid"
    assert bytes(await db.fetchval("select body from deliveries order by id limit 1")) == payment()


@pytest.mark.parametrize("path", [QUEUE, SYNC])
async def test_without_its_signature_nothing_is_stored(client: Client, db: Connection, path: str) -> None:
    answers = set()
    for headers in ({}, {"Stripe-Signature": "t=1,v1=00"}, dict(STRIPE_TEST.sign(payment(), time.time()))):
        status, _, response = await client.post(path, payment(), headers)
        answers.add((status, await response.text()))
    assert [status for status, _ in answers] == [401]
    assert await counts(db, "payment_events", "deliveries", "dead_letters") == [0, 0, 0]


async def test_what_is_not_configured_is_not_there(client: Client) -> None:
    for path in ("/webhooks/payments", "/webhooks/adyen", "/webhooks/stripe/", "/webhooks-sync/"):
        assert (await client.post(path, payment(), {}))[0] == 404


async def test_the_test_mode_has_an_endpoint_and_a_secret_of_its_own(client: Client, db: Connection) -> None:
    headers = dict(STRIPE_TEST.sign(payment(), time.time()))
    assert (await client.post("/webhooks/stripe-test", payment(), headers))[1] == {"outcomes": ["wrong_mode"]}  # 92
    assert await counts(db, "payment_events", "dead_letters") == [0, 1]


@pytest.mark.parametrize("path", [QUEUE, SYNC])
async def test_what_is_authentic_but_unusable_is_kept_once_with_its_body(
    client: Client, db: Connection, path: str
) -> None:
    for _ in range(2):
        assert await send(client, path, b"[" * 100) == ["unreadable"]
        assert await send(client, path, payment(amount_received=99.9)) == ["bad_amount"]
    rows = await db.fetch(
        "select reason, body from dead_letters d join deliveries b on b.id = d.delivery_id order by d.id"
    )
    assert [(reason, bytes(body)) for reason, body in rows] == [
        ("unreadable", b"[" * 100),
        ("bad_amount", payment(amount_received=99.9)),
    ]
    assert await send(client, path, event("customer.created", {})) == []


async def test_a_payment_waits_for_its_invoice(client: Client, db: Connection) -> None:
    assert await send(client, SYNC, payment(metadata={"invoice_id": "7"})) == ["parked"]
    await add_invoice(db, 7)
    await db.execute("select process_payment_queue(10)")
    assert await whereabouts(db, "evt_1", "stripe") == ("processed", "posted")


async def test_a_link_in_any_order_brings_a_payment_to_its_invoice(client: Client, db: Connection) -> None:
    paid = event("invoice_payment.paid", {"invoice": "in_1", "payment": {"payment_intent": "pi_1"}})
    named = event("invoice.paid", {"id": "in_1", "metadata": {"invoice_id": "42"}})
    assert await send(client, SYNC, payment(metadata={})) == ["parked"]
    assert await send(client, SYNC, paid) == ["parked"]
    assert await send(client, SYNC, named) == ["linked"]
    await db.execute("select process_payment_queue(10)")
    assert await db.fetchval("select amount_paid from invoices where id = 42") == 5000
    await add_invoice(db, 43)
    assert await send(client, SYNC, event("invoice.paid", {"id": "in_1", "metadata": {"invoice_id": "43"}})) == [
        "conflict"
    ]
    assert await db.fetchval("select reason from dead_letters") == "conflict"


async def test_a_locked_invoice_or_a_trigger_that_raises_sends_the_event_to_the_queue(
    client: Client, db: Connection, connect: Connect
) -> None:
    other = await connect()
    async with other.transaction():
        await other.execute("update invoices set updated_at = now() where id = 42")
        assert await send(client, SYNC, payment()) == ["queued"]
    await db.execute("""
        create function poison() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
        create trigger poison before update on invoices for each row execute function poison()
    """)
    assert await send(client, SYNC, payment("evt_2", id="pi_2")) == ["queued"]
    assert await db.fetchval("select last_error from payment_queue where attempts = 1") == "no (SQLSTATE P0001)"


async def test_other_content_under_a_known_id_is_answered_200_and_kept(client: Client, db: Connection) -> None:
    await send(client, SYNC, payment())
    for path in (SYNC, QUEUE):
        assert await send(client, path, payment(amount_received=6000)) == ["conflict"]  # 94
    assert await counts(db, "payments", "dead_letters") == [1, 1]


async def test_a_challenge_is_answered_where_the_provider_sends_one(database_url: str) -> None:
    braintree = example("braintree")
    async with serving(database_url, allow_unsigned=False, connections=(STRIPE, braintree)) as client:
        url = f"{client.url}/webhooks"
        async with client.session.get(f"{url}/braintree", params={"bt_challenge": "0123456789" * 2}) as answer:
            assert answer.status == 200
            assert (await answer.text()).startswith("public|")
        async with client.session.get(f"{url}/braintree", params={"bt_challenge": "<kind/>"}) as answer:
            assert answer.status == 400
        async with client.session.get(f"{url}/stripe", params={"bt_challenge": "0123456789" * 2}) as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        async with client.session.put(f"{url}/braintree") as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST")
        status, answered, _ = await client.post("/webhooks/braintree", braintree.sample("42", 5000, "USD"), {})
        assert (status, answered) == (200, {"outcomes": ["queued"]})


async def test_a_batch_of_no_use_is_kept_once(database_url: str, db: Connection) -> None:
    theirs = json.loads(example("adyen", account="theirs").sample("42", 5000, "USD"))
    theirs["notificationItems"] *= 100
    async with serving(database_url, allow_unsigned=False, connections=(example("adyen", account="ours"),)) as client:
        for _ in range(2):
            async with client.session.post(client.url + "/webhooks/adyen", json=theirs) as answer:
                assert (answer.status, await answer.text()) == (200, "[accepted]")
    assert await counts(db, "dead_letters", "deliveries") == [1, 1]


async def test_adyen_reads_the_answer_it_documents(database_url: str, db: Connection) -> None:
    await add_invoice(db, 42)
    adyen = example("adyen")
    async with serving(database_url, allow_unsigned=False, connections=(adyen,)) as client:
        body = adyen.sample("42", 5000, "USD")
        async with client.session.post(client.url + "/webhooks/adyen", data=body) as answer:
            assert (answer.status, answer.content_type, await answer.text()) == (200, "text/plain", "[accepted]")


async def test_a_content_type_that_is_no_text_costs_no_money(database_url: str, db: Connection) -> None:
    await add_invoice(db, 42)
    async with serving(database_url, allow_unsigned=False, connections=(STRIPE,)) as client:
        length = {"Content-Length": str(len(payment())), "Connection": "close"}
        headers = {"Host": "a"} | dict(STRIPE.sign(payment(), time.time())) | length
        head = f"POST {QUEUE} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        said = await client.raw(head.encode() + b"Content-Type: application/json; x=\xff\r\n\r\n" + payment())
    assert said.startswith(b"HTTP/1.1 200")
    assert said.endswith(b'{"outcomes": ["queued"]}\n')
    assert await db.fetchval("select content_type from deliveries") == "application/json; x=?"


async def test_without_a_database_money_is_503_and_what_moves_none_says_nothing_about_it() -> None:
    nowhere = f"postgresql://postgres@127.0.0.1:{free_port()}/payments"
    async with serving(nowhere, allow_unsigned=False, connections=(STRIPE,)) as client:
        with capture_logs() as said:
            assert (await client.post(QUEUE, payment(), dict(STRIPE.sign(payment(), time.time()))))[0] == 503
            assert await send(client, QUEUE, event("customer.created", {})) == []
    assert [line["event"] for line in said] == ["database_unavailable"]

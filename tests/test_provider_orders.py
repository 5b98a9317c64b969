"""Rows 97 and 98: whatever the order and however often they come, the events of a provider leave the same invoice."""

import json
import random
import time
from typing import Any

import pytest

from tests import test_adyen as adyen
from tests import test_checkout as checkout
from tests import test_square as square
from tests import test_stripe as stripe
from tests.calls import add_invoice, assert_consistent, counts, drain
from tests.conftest import Connection
from tests.http_service import serving
from tests.providers import example

Events = list[dict[str, Any]]


def of_adyen() -> Events:
    """A payment of 100.00, of which 40.00 are refunded and 10.00 disputed and won."""
    whole = {"value": 10_000, "currency": "USD"}
    later = adyen.LATER | {"amount": {"value": 1000, "currency": "USD"}, "pspReference": "PSP4"}
    refund = later | {"amount": {"value": 4000, "currency": "USD"}, "pspReference": "PSP3"}
    items = [
        adyen.PAID | {"amount": whole, "eventCode": "AUTHORISATION"},
        adyen.LATER | {"amount": whole, "eventCode": "CAPTURE"},
        refund | {"eventCode": "REFUND"},
        later | {"eventCode": "CHARGEBACK"},
        later | {"eventCode": "CHARGEBACK_REVERSED"},
    ]
    return [adyen.batch(adyen.seal(item)) for item in items]


def of_checkout() -> Events:
    """The same."""
    usd = {"currency": "USD", "amount": 10_000}
    dispute = checkout.DISPUTE | usd | {"amount": 1000}
    events = [
        checkout.event("payment_captured", checkout.PAID | usd),
        checkout.event("payment_refunded", checkout.PAID | usd | {"action_id": "act_9", "amount": 4000}),
        checkout.event("dispute_evidence_required", dispute),
        checkout.event("dispute_lost", dispute),
        checkout.event("dispute_won", dispute),
    ]
    return [event | {"id": f"evt_{number}"} for number, event in enumerate(events)]


def of_square() -> Events:
    """The same."""
    refund = square.REFUND | {"amount_money": {"amount": 4000, "currency": "USD"}}
    dispute = square.DISPUTE | {"amount_money": {"amount": 1000, "currency": "USD"}}
    payment = square.PAID | {"total_money": {"amount": 10_000, "currency": "USD"}}
    return [
        square.event("payment.created", payment, event_id="a"),
        square.event("payment.updated", payment, event_id="b"),
        square.event("refund.updated", refund, event_id="c"),
        square.event("dispute.created", dispute | {"state": "PROCESSING"}, event_id="d"),
        square.event("dispute.state.updated", dispute | {"state": "WON"}, event_id="e"),
    ]


def of_stripe() -> Events:
    """The same, the invoice named by Stripe's invoice alone."""
    usd = {"currency": "usd"}
    intent = stripe.PI | usd | {"amount_received": 10_000, "metadata": {}}
    refund = stripe.REFUND | usd | {"amount": 4000}
    dispute = stripe.DISPUTE | usd
    paid = {"invoice": "in_1", "payment": {"type": "payment_intent", "payment_intent": "pi_1"}}
    events = [
        stripe.event("payment_intent.succeeded", intent),
        stripe.event("invoice.paid", stripe.PAID),
        stripe.event("invoice_payment.paid", paid),
        stripe.event("refund.created", refund),
        stripe.event("refund.updated", refund),
        stripe.event("charge.dispute.funds_withdrawn", dispute | {"balance_transactions": [{"amount": -1000}]}),
        stripe.event(
            "charge.dispute.funds_reinstated", dispute | {"balance_transactions": [{"amount": -1000}, {"amount": 1000}]}
        ),
    ]
    return [event | {"id": f"evt_{number}"} for number, event in enumerate(events)]


@pytest.mark.parametrize(
    ("name", "settings", "events"),
    [
        pytest.param("adyen", {}, of_adyen(), id="adyen"),
        pytest.param("adyen", {"manual_capture": "*"}, of_adyen(), id="adyen captured by hand"),
        pytest.param("checkout", {}, of_checkout(), id="checkout"),
        pytest.param("square", {}, of_square(), id="square"),
        pytest.param("stripe", {}, of_stripe(), id="stripe"),
    ],
)
@pytest.mark.parametrize("seed", [None, 1, 2, 3])
async def test_any_order_leaves_the_same_invoice(
    database_url: str, db: Connection, name: str, settings: dict[str, Any], events: Events, seed: int | None
) -> None:
    adapter = example(name, **settings)
    order = events[:]
    if seed is not None:
        random.Random(seed).shuffle(order := 2 * order)  # noqa: S311 - the same every time
    async with serving(database_url, allow_unsigned=False, connections=(adapter,)) as client:
        for number, event in enumerate(order):
            if number == len(order) // 2:
                await add_invoice(db, 42)
            body = json.dumps(event).encode()
            path = f"/{'webhooks' if number % 2 else 'webhooks-sync'}/{name}"
            headers = dict(adapter.sign(body, time.time()))
            async with client.session.post(client.url + path, data=body, headers=headers) as answer:
                assert answer.status == 200
    await drain(db)
    row = await db.fetchrow("select amount_paid, amount_refunded, amount_charged_back from invoices where id = 42")
    assert row is not None
    assert tuple(row) == (10_000, 4000, 0)
    letters = 1 if name == "adyen" and not settings else 0  # of a capture where AUTHORISATION pays
    assert await counts(db, "dead_letters", "parked_events", "parked_references") == [letters, 0, 0]
    await assert_consistent(db)

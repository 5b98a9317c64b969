"""Stripe: signatures, and what each event means."""

from typing import Any

import pytest
from multidict import CIMultiDict

from service.adapters.adapter import Delivery
from service.database import DeadLetter, Link, PaymentEvent
from tests.providers import NOW, example, facts, in_short, payloads, signed, vectors

PI: dict[str, Any] = {"id": "pi_1", "amount_received": 5000, "currency": "eur", "metadata": {"invoice_id": "42"}}
DISPUTE: dict[str, Any] = {"id": "dp_1", "amount": 5000, "currency": "eur", "payment_intent": "pi_1"}
REFUND: dict[str, Any] = DISPUTE | {"id": "re_1", "amount": 500, "status": "succeeded"}
PAID: dict[str, Any] = {"id": "in_1", "total": 5000, "amount_paid": 5000, "metadata": {"invoice_id": "42"}}


def event(kind: str, thing: dict[str, Any], **fields: Any) -> dict[str, Any]:
    data = {"object": thing, "previous_attributes": fields.pop("before", {})}
    return {"id": "evt_1", "type": kind, "livemode": True, "created": 1_790_000_000, "data": data} | fields


async def what(kind: str, thing: dict[str, Any], **fields: Any) -> list[tuple[Any, ...]]:
    return in_short(await facts(example("stripe"), event(kind, thing, **fields)))


@pytest.mark.parametrize("vector", vectors("stripe"))
async def test_the_vectors_of_others_agree(vector: dict[str, Any]) -> None:
    secret = vector["secret"] or "a secret of ours"
    delivery = Delivery(CIMultiDict(vector["headers"]), vector["body"].encode(), vector.get("now", NOW))
    assert await example("stripe", webhook_secrets=[secret]).is_authentic(delivery) == vector["valid"]


@pytest.mark.parametrize(
    ("at", "valid"), [(NOW - 300, True), (NOW + 300, True), (NOW - 301, False), (NOW + 301, False), (NOW + 3e8, False)]
)
async def test_a_timestamp_may_be_off_by_five_minutes(at: float, *, valid: bool) -> None:
    adapter = example("stripe")
    assert await adapter.is_authentic(signed(adapter, b"{}", at)) == valid  # 43, 44


@pytest.mark.parametrize(
    "stamp", ["t=1790000000,t=1790000000", "t=+1790000000", "t=1790000000.9", "t=1.79e9", "t=١٧٩", "t=" + "1" * 400, ""]
)
async def test_a_timestamp_is_digits_and_only_one(stamp: str) -> None:
    adapter = example("stripe")
    delivery = signed(adapter, b"{}")
    value = delivery.headers["Stripe-Signature"].replace("t=1790000000", stamp)
    assert not await adapter.is_authentic(delivery._replace(headers=CIMultiDict({"Stripe-Signature": value})))  # 42, 45


async def test_another_scheme_is_no_signature() -> None:
    adapter = example("stripe")
    delivery = signed(adapter, b"{}")
    value = delivery.headers["Stripe-Signature"].replace("v1=", "v0=")
    assert not await adapter.is_authentic(delivery._replace(headers=CIMultiDict({"Stripe-Signature": value})))  # 40


@pytest.mark.parametrize(
    ("kind", "thing", "facts"),
    [
        ("payment_intent.succeeded", PI, [("payment", 5000, "EUR", "pi_1", 42)]),
        ("payment_intent.succeeded", PI | {"metadata": {}}, [("payment", 5000, "EUR", "pi_1", "pi_1")]),
        ("payment_intent.succeeded", PI | {"metadata": {"invoice_id": "I7"}}, [("payment", 5000, "EUR", "pi_1", "I7")]),
        ("payment_intent.succeeded", PI | {"amount_received": 0}, []),  # 88
        ("payment_intent.succeeded", PI | {"amount_received": 9.999}, [("bad_amount",)]),  # 73
        ("payment_intent.succeeded", PI | {"amount_received": "5000"}, [("bad_amount",)]),  # 76
        ("payment_intent.succeeded", PI | {"amount_received": True}, [("bad_amount",)]),  # 75
        ("payment_intent.succeeded", PI | {"amount_received": -1}, [("bad_amount",)]),  # 78
        ("payment_intent.succeeded", PI | {"amount_received": 2**63}, [("bad_amount",)]),  # 79
        ("payment_intent.succeeded", PI | {"currency": "xyz"}, [("unknown_currency",)]),  # 83
        ("payment_intent.succeeded", PI | {"currency": "ugx"}, [("payment", 50, "UGX", "pi_1", 42)]),
        ("payment_intent.succeeded", PI | {"currency": "ugx", "amount_received": 5001}, [("bad_amount",)]),
        ("payment_intent.succeeded", PI | {"currency": "mga"}, [("payment", 500_000, "MGA", "pi_1", 42)]),
        ("payment_intent.succeeded", PI | {"currency": "jpy"}, [("payment", 5000, "JPY", "pi_1", 42)]),
        ("payment_intent.succeeded", PI | {"currency": "kwd"}, [("payment", 5000, "KWD", "pi_1", 42)]),
        ("payment_intent.succeeded", PI | {"id": "pi\0"}, [("unreadable",)]),  # 69
        ("payment_intent.succeeded", PI | {"id": "\ud800"}, [("unreadable",)]),
        ("payment_intent.payment_failed", PI, []),
        ("charge.succeeded", {"id": "ch_1", "payment_intent": "pi_1", "amount": 5000}, []),
        ("charge.refunded", {"id": "ch_1", "amount_refunded": 500}, []),  # 89
        ("something.new", {}, []),  # 106
        ("refund.created", REFUND, [("refund", 500, "EUR", "re_1", "pi_1")]),
        ("refund.created", REFUND | {"status": "pending"}, []),  # 91
        ("refund.failed", REFUND | {"status": "failed"}, [("refund_reversal", 500, "EUR", "re_1", "pi_1")]),
        ("refund.created", REFUND | {"payment_intent": None}, [("no_invoice",)]),
        ("charge.dispute.created", DISPUTE, []),
        ("charge.dispute.funds_withdrawn", DISPUTE | {"balance_transactions": []}, [("bad_amount",)]),
        (
            "charge.dispute.funds_withdrawn",
            DISPUTE | {"balance_transactions": [{"amount": -4000}]},
            [("chargeback", 4000, "EUR", "dp_1/1", "pi_1")],
        ),
        (
            "charge.dispute.funds_reinstated",
            DISPUTE | {"balance_transactions": [{"amount": -4000}, {"amount": 3500}]},
            [("chargeback_reversal", 3500, "EUR", "dp_1/1", "pi_1")],
        ),
        (  # the account is kept in another currency
            "charge.dispute.funds_withdrawn",
            DISPUTE | {"balance_transactions": [{"amount": -4300, "currency": "usd"}]},
            [("chargeback", DISPUTE["amount"], "EUR", "dp_1/1", "pi_1")],
        ),
        (
            "charge.dispute.funds_reinstated",
            DISPUTE | {"balance_transactions": [{"amount": a, "currency": "usd"} for a in (-4300, 4200)]},
            [("chargeback_reversal", DISPUTE["amount"], "EUR", "dp_1/1", "pi_1")],
        ),
        ("invoice.paid", None, [("unreadable",)]),
        (
            "checkout.session.completed",
            {"mode": "payment", "payment_status": "paid", "payment_intent": "pi_1", "client_reference_id": "42"},
            [("link", "pi_1", 42)],
        ),
        (
            "checkout.session.completed",
            {"mode": "subscription", "payment_status": "paid", "invoice": "in_1", "metadata": {"invoice_id": "INV-7"}},
            [("link", "in_1", "INV-7")],
        ),
        (
            "checkout.session.completed",
            {"mode": "payment", "payment_status": "paid", "payment_intent": None, "amount_total": 700},
            [("no_payment_intent",)],
        ),
        ("invoice.paid", PAID | {"payment_intent": "pi_1"}, [("link", "pi_1", 42), ("link", "in_1", 42)]),
        ("invoice.paid", PAID | {"payment_intent": None}, [("no_payment_intent",)]),
        ("invoice.paid", PAID | {"payment_intent": "pi_1", "paid_out_of_band": True}, [("no_payment_intent",)]),
        ("invoice.paid", PAID | {"total": -500, "amount_paid": 0}, [("link", "in_1", 42)]),  # a credit
        ("invoice.paid", PAID | {"amount_paid": 0}, [("no_payment_intent",)]),
        ("invoice.paid", PAID, [("link", "in_1", 42)]),
        (
            "invoice_payment.paid",
            {"invoice": "in_1", "amount_paid": 5000, "payment": {"type": "payment_intent", "payment_intent": "pi_1"}},
            [("link", "pi_1", "in_1")],
        ),
        ("invoice_payment.paid", {"amount_paid": 5000, "payment": {"type": "charge"}}, [("no_payment_intent",)]),
    ],
)  # fmt: skip
async def test_an_event_is_what_it_means(kind: str, thing: dict[str, Any], facts: list[tuple[Any, ...]]) -> None:
    assert await what(kind, thing) == facts


@pytest.mark.parametrize(
    ("named", "invoice"),
    [(42, 42), ("42", 42), (2**63 - 1, 2**63 - 1), (2**63, str(2**63)), ("007", "007"), ("-1", "-1"), ("٤٢", "٤٢")],
)
async def test_what_is_no_plain_integer_is_a_reference(named: object, invoice: object) -> None:
    [payment] = await what("payment_intent.succeeded", PI | {"metadata": {"invoice_id": named}})
    assert payment[-1] == invoice


async def test_what_failed_while_pending_never_was_a_refund() -> None:
    failed = REFUND | {"status": "failed"}
    assert await what("refund.updated", failed, before={"status": "pending"}) == []
    assert len(await what("refund.updated", failed, before={"status": "succeeded"})) == 1


async def test_a_test_event_or_anothers_is_no_live_money() -> None:
    assert await what("payment_intent.succeeded", PI, livemode=False) == [("wrong_mode",)]  # 92
    body = event("payment_intent.succeeded", PI, account="acct_2")
    for account in ("acct_1", None):
        [letter] = await facts(example("stripe", account=account), body)
        assert isinstance(letter, DeadLetter)
        assert letter.reason == "wrong_account"
    for account in ("acct_2", "*"):
        for ours in (body, event("payment_intent.succeeded", PI)):  # our own account's events do not say whose they are
            found = await facts(example("stripe", account=account), ours)
            assert in_short(found) == [("payment", 5000, "EUR", "pi_1", 42)]


@pytest.mark.parametrize("body", payloads("stripe"))
@pytest.mark.parametrize("mode", ["live", "test"])
async def test_real_payloads_give_facts_or_a_named_reason(body: bytes, mode: str) -> None:
    for fact in await facts(example("stripe", mode=mode), body):
        assert isinstance(fact, PaymentEvent | Link) or fact.reason in {"unreadable", "wrong_mode", "no_payment_intent"}

"""Shopify: signatures, and what each shape means."""

import base64
import hmac
from typing import Any

import pytest
from multidict import CIMultiDict

from service.adapters.adapter import Delivery
from service.database import DeadLetter, PaymentEvent
from tests.providers import NOW, example, facts, payloads, vectors

EUROS = {"shop_money": {"amount": "55.10", "currency_code": "USD"},
         "presentment_money": {"amount": "50.00", "currency_code": "EUR"}}  # fmt: skip
ORDER: dict[str, Any] = {
    "id": 820982911946154508,
    "admin_graphql_api_id": "gid://shopify/Order/820982911946154508",
    "financial_status": "paid",
    "test": False,
    "total_price": "55.10",
    "currency": "USD",
    "total_price_set": EUROS,
    "presentment_currency": "EUR",
    "note": "99",
    "note_attributes": [{"name": "colour", "value": "red"}, {"name": "invoice_id", "value": "42"}],
    "processed_at": "2026-09-21T13:33:20-04:00",
    "line_items": [],
    "refunds": [],
}
TRANSACTION: dict[str, Any] = {
    "id": 389404469,
    "order_id": 820982911946154508,
    "kind": "refund",
    "gateway": "shopify_payments",
    "status": "success",
    "amount": "5.00",
    "currency": "EUR",
    "test": False,
    "parent_id": 801038806,
    "processed_at": "2026-09-21T13:33:20-04:00",
}
DISPUTE: dict[str, Any] = {
    "id": 285332461850802050,
    "order_id": 820982911946154508,
    "type": "chargeback",
    "amount": "50.00",
    "currency": "EUR",
    "status": "needs_response",
    "evidence_due_by": "2026-10-21T19:00:00-04:00",
    "initiated_at": "2026-09-21T13:33:20-04:00",
    "finalized_on": "2026-11-21",
}
PAID = ("820982911946154508:paid", "payment", 5000, "EUR", "820982911946154508", 42)
REFUND = ("389404469:refund", "refund", 500, "EUR", "389404469", "820982911946154508")
LOST = ("285332461850802050:chargeback", "chargeback", 5000, "EUR", "285332461850802050", "820982911946154508")
WON = ("285332461850802050:chargeback_reversal", "chargeback_reversal", *LOST[2:])


def refund(*transactions: object) -> dict[str, Any]:
    return {
        "id": 890088186047892319, "order_id": 820982911946154508, "note": "Things were damaged",
        "refund_line_items": [], "transactions": list(transactions),
    }  # fmt: skip


async def what(body: dict[str, Any], **settings: Any) -> list[Any]:
    """The facts of a body in short."""
    short: list[Any] = []
    for fact in await facts(example("shopify", **settings), body):
        if isinstance(fact, PaymentEvent):
            named = fact.invoice_id or fact.invoice_reference or fact.parent_reference
            short.append((fact.event_id, fact.kind, fact.amount, fact.currency, fact.reference, named))
        else:
            assert isinstance(fact, DeadLetter)
            short.append(fact.reason)
    return short


@pytest.mark.parametrize("vector", vectors("shopify"))
async def test_the_vectors_of_others_agree(vector: dict[str, Any]) -> None:
    delivery = Delivery(CIMultiDict(vector["headers"]), vector["body"].encode(), NOW)
    adapter = example("shopify", webhook_secrets=[vector["secret"]])
    assert await adapter.is_authentic(delivery) == vector["valid"]
    assert await adapter.facts(delivery) == []  # a product


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (ORDER, [PAID]),
        (ORDER | {"financial_status": "pending"}, []),
        (ORDER | {"financial_status": "authorized"}, []),
        (ORDER | {"financial_status": "partially_paid"}, []),
        (ORDER | {"financial_status": "partially_refunded"}, [PAID]),
        (ORDER | {"financial_status": "refunded", "total_outstanding": "0.00"}, [PAID]),
        (ORDER | {"financial_status": "refunded", "total_outstanding": "5.00"}, ["not_completed"]),
        (ORDER | {"financial_status": None}, []),
        (ORDER | {"financial_status": ["paid"]}, []),
        (ORDER | {"total_outstanding": "-10.00"}, [PAID]),
        (ORDER | {"test": True}, ["wrong_mode"]),  # 92
        (ORDER | {"test": None}, ["unreadable"]),
        (ORDER | {"note_attributes": []}, [(*PAID[:5], "820982911946154508")]),
        (ORDER | {"note_attributes": None}, [(*PAID[:5], "820982911946154508")]),
        (ORDER | {"note_attributes": ["invoice_id"]}, [(*PAID[:5], "820982911946154508")]),
        (ORDER | {"note_attributes": [{"name": "invoice_id", "value": "INV-7"}]}, [(*PAID[:5], "INV-7")]),
        (ORDER | {"note_attributes": [{"name": "invoice_id", "value": ["42"]}]}, ["unreadable"]),
        (ORDER | {"total_price_set": None}, [(*PAID[:2], 5510, "USD", *PAID[4:])]),
        (ORDER | {"total_price_set": {"shop_money": EUROS["shop_money"]}}, [(*PAID[:2], 5510, "USD", *PAID[4:])]),
        (ORDER | {"id": "sample"}, [("sample:paid", *PAID[1:4], "sample", 42)]),
        (ORDER | {"id": None}, ["unreadable"]),
        (ORDER | {"id": True}, ["unreadable"]),
        (ORDER | {"id": 10**300}, ["unreadable"]),
        (refund(TRANSACTION), [REFUND]),
        (TRANSACTION, [REFUND]),
        (refund(TRANSACTION | {"status": "pending"}), []),  # 91
        (refund(TRANSACTION | {"status": "failure"}), []),
        (refund(TRANSACTION | {"kind": "void"}), []),
        (refund(TRANSACTION | {"kind": "sale"}), []),
        (refund(TRANSACTION | {"amount": "0.00"}), []),
        (refund(TRANSACTION | {"test": True}), ["wrong_mode"]),
        (refund(TRANSACTION | {"order_id": None}), ["no_invoice"]),
        (refund(), []),
        (refund(TRANSACTION | {"amount": 5.0}, TRANSACTION, "text"), [REFUND, "bad_amount", "unreadable"]),  # 100
        (refund() | {"transactions": None}, ["unreadable"]),
        (DISPUTE, [LOST]),
        (DISPUTE | {"status": "under_review"}, [LOST]),
        (DISPUTE | {"status": "lost"}, [LOST]),
        (DISPUTE | {"status": "won"}, [WON]),
        (DISPUTE | {"status": "prevented"}, ["dispute_prevented"]),
        (DISPUTE | {"status": "charge_refunded"}, []),
        (DISPUTE | {"status": ["lost"]}, []),
        (DISPUTE | {"type": "inquiry"}, []),
        (DISPUTE | {"order_id": None}, ["no_invoice"]),
        (DISPUTE | {"order_id": []}, ["unreadable"]),
        (DISPUTE | {"order_id": False}, ["unreadable"]),
        (DISPUTE | {"currency": "XYZ"}, ["unknown_currency"]),  # 83
        ({"id": 1, "title": "Bicycle"}, []),  # 106
        ({"id": 1, "line_items": [], "status": "open"}, []),
    ],
)
async def test_the_shape_tells_what_it_is(body: dict[str, Any], expected: list[Any]) -> None:
    assert await what(body) == expected


@pytest.mark.parametrize(
    ("amount", "currency", "expected"),
    [
        ("50.00", "JPY", [(*PAID[:2], 50, "JPY", *PAID[4:])]),
        ("50.5", "EUR", [(*PAID[:2], 5050, "EUR", *PAID[4:])]),
        ("10.50", "JPY", ["bad_amount"]),  # 81
        ("10.005", "EUR", ["bad_amount"]),  # 80
        ("0.00", "EUR", []),  # 88
        ("", "EUR", ["bad_amount"]),
        ("-5.00", "EUR", ["bad_amount"]),  # 78
        (50.0, "EUR", ["bad_amount"]),
        (5000, "EUR", ["bad_amount"]),
        (None, "EUR", ["bad_amount"]),
        ("9" * 17, "EUR", ["bad_amount"]),  # 79
        ("50.00", None, ["unknown_currency"]),
    ],
)
async def test_money_is_exact(amount: object, currency: object, expected: list[Any]) -> None:
    body = ORDER | {"total_price_set": {"presentment_money": {"amount": amount, "currency_code": currency}}}
    assert await what(body) == expected


async def test_a_test_order_counts_on_a_test_connection() -> None:
    assert await what(ORDER | {"test": True}, mode="test") == [PAID]
    assert await what(ORDER, mode="test") == ["wrong_mode"]


async def test_a_place_of_the_order_is_not_read_from_a_refund() -> None:
    assert (await what(ORDER, invoice=["/note"]))[0][-1] == 99
    assert await what(refund(TRANSACTION | {"note": "99"}), invoice=["/note"]) == [REFUND]


async def test_a_topic_cannot_make_an_order_anything_else() -> None:
    body = b'{"id": 1, "financial_status": "pending", "line_items": []}'
    signature = base64.b64encode(hmac.digest(b"first secret", body, "sha256")).decode()
    headers = {"X-Shopify-Hmac-Sha256": signature, "X-Shopify-Topic": "orders/paid"}
    delivery = Delivery(CIMultiDict(headers), body, NOW)
    assert await example("shopify").is_authentic(delivery)
    assert await example("shopify").facts(delivery) == []


@pytest.mark.parametrize("body", payloads("shopify"))
async def test_real_payloads_give_facts_or_a_named_reason(body: bytes) -> None:
    for fact in await facts(example("shopify"), body):
        assert isinstance(fact, PaymentEvent) or getattr(fact, "reason", None) in {"unreadable", "wrong_mode"}

"""Coinbase Commerce: signatures, and what was paid."""

from typing import Any

import pytest
from multidict import CIMultiDict

from service.adapters.adapter import Delivery
from service.database import DeadLetter, PaymentEvent
from tests.providers import NOW, example, facts, payloads, vectors


def paid(amount: object, currency: object = "EUR", status: object = "CONFIRMED") -> dict[str, Any]:
    return {
        "network": "ethereum",
        "transaction_id": "0x1",
        "status": status,
        "value": {
            "local": {"amount": amount, "currency": currency}, "crypto": {"amount": "0.0123", "currency": "ETH"},
        },
    }  # fmt: skip


CHARGE: dict[str, Any] = {
    "id": "f765421f-1d44-4a3b-b5a3-2c1a1d6d4f5d",
    "code": "66BEOV2A",
    "metadata": {"invoice_id": "42"},
    "pricing": {"local": {"amount": "60.00", "currency": "EUR"}},
    "payments": [paid("50.00")],
}
PAYMENT = ("payment", 5000, "EUR", "66BEOV2A", 42)


async def what(kind: object, charge: dict[str, Any]) -> object:
    """The one fact of an event in short."""
    event = {"id": "e1", "type": kind, "created_at": "2026-09-21T13:33:20Z", "data": charge}
    for fact in await facts(example("coinbase"), {"id": 1, "attempt_number": 1, "event": event}):
        if isinstance(fact, PaymentEvent):
            assert fact.event_id == "e1"
            assert fact.occurred_at is not None
            return fact.kind, fact.amount, fact.currency, fact.reference, fact.invoice_id or fact.invoice_reference
        assert isinstance(fact, DeadLetter)
        return fact.reason
    return None


@pytest.mark.parametrize("vector", vectors("coinbase"))
async def test_the_vectors_of_others_agree(vector: dict[str, Any]) -> None:
    delivery = Delivery(CIMultiDict(vector["headers"]), vector["body"].encode(), NOW)
    assert await example("coinbase", webhook_secrets=[vector["secret"]]).is_authentic(delivery) == vector["valid"]


@pytest.mark.parametrize(
    ("kind", "charge", "fact"),
    [
        ("charge:confirmed", {}, PAYMENT),
        ("charge:created", {"payments": []}, None),
        ("charge:pending", {}, None),
        ("charge:delayed", {}, None),
        ("charge:failed", {}, None),
        ("charge:resolved", {}, None),
        ("something:new", {}, None),  # 106
        (None, {}, "unreadable"),
        ("charge:confirmed", {"metadata": {}}, (*PAYMENT[:4], "66BEOV2A")),
        ("charge:confirmed", {"metadata": {"invoice_id": "INV-7"}}, (*PAYMENT[:4], "INV-7")),
        ("charge:confirmed", {"metadata": {"invoice_id": ["42"]}}, "unreadable"),
        ("charge:confirmed", {"payments": [paid("20.00"), paid("30.0", status="confirmed")]}, PAYMENT),
        ("charge:confirmed", {"payments": [paid("50"), paid("9.00", status="PENDING")]}, PAYMENT),
        ("charge:confirmed", {"payments": [paid("50"), paid("0.00")]}, PAYMENT),
        ("charge:confirmed", {"payments": [paid("20.00"), paid("30.00", "USD")]}, "bad_amount"),
        ("charge:confirmed", {"payments": [paid("50.00", status="PENDING")]}, "bad_amount"),
        ("charge:confirmed", {"payments": []}, "bad_amount"),
        ("charge:confirmed", {"payments": None}, "unreadable"),
        ("charge:confirmed", {"payments": ["50.00"]}, "bad_amount"),
        ("charge:confirmed", {"payments": [paid("10.005")]}, "bad_amount"),  # 80
        ("charge:confirmed", {"payments": [paid("10.50", "JPY")]}, "bad_amount"),  # 81
        ("charge:confirmed", {"payments": [paid(50.0)]}, "bad_amount"),  # 73
        ("charge:confirmed", {"payments": [paid(50)]}, "bad_amount"),
        ("charge:confirmed", {"payments": [paid("-50.00")]}, "bad_amount"),  # 78
        ("charge:confirmed", {"payments": [paid("0")]}, "bad_amount"),  # 88
        ("charge:confirmed", {"payments": [paid("9" * 17)]}, "bad_amount"),  # 79
        ("charge:confirmed", {"payments": [paid("0.0123", "ETH")]}, "unknown_currency"),  # 83
        ("charge:confirmed", {"code": None}, "unreadable"),
        ("charge:confirmed", {"code": "\0"}, "unreadable"),  # 69
    ],
)
async def test_only_a_confirmed_charge_is_a_payment(kind: object, charge: dict[str, Any], fact: object) -> None:
    assert await what(kind, CHARGE | charge) == fact


@pytest.mark.parametrize("body", payloads("coinbase"))
async def test_real_payloads_give_facts_or_a_named_reason(body: bytes) -> None:
    for fact in await facts(example("coinbase"), body):
        assert isinstance(fact, PaymentEvent) or getattr(fact, "reason", None) in {"unreadable", "bad_amount"}

"""Paystack: signatures, and what each event means."""

import hashlib
import hmac
from typing import Any

import pytest
from multidict import CIMultiDict

from service.adapters.adapter import Delivery
from service.database import DeadLetter, PaymentEvent
from tests.providers import NOW, example, facts, in_short, payloads, vectors

CHARGE: dict[str, Any] = {"id": 302961, "reference": "T1", "amount": 5000, "currency": "NGN", "status": "success"}
FOR_42 = {"metadata": {"invoice_id": "42"}}
REFUND: dict[str, Any] = {
    "transaction_reference": "T1", "refund_reference": "132013318360", "amount": "500", "currency": "NGN",
    "status": "processed", "domain": "live",
}  # fmt: skip
DISPUTE: dict[str, Any] = {
    "id": 358950, "refund_amount": 5000, "currency": "NGN", "status": "resolved", "resolution": "merchant-accepted",
    "transaction": CHARGE | {"metadata": ""}, "domain": "live",
}  # fmt: skip


async def what(kind: str, data: Any, **settings: Any) -> list[tuple[Any, ...]]:
    return in_short(await facts(example("paystack", **settings), {"event": kind, "data": data}))


@pytest.mark.parametrize("vector", vectors("paystack"))
async def test_the_vectors_of_others_agree(vector: dict[str, Any]) -> None:
    delivery = Delivery(CIMultiDict(vector["headers"]), vector["body"].encode(), NOW)
    adapter = example("paystack", webhook_secrets=[vector["secret"]])
    assert await adapter.is_authentic(delivery) == vector["valid"]


@pytest.mark.parametrize(("algorithm", "valid"), [("sha512", True), ("sha256", False)])
async def test_the_signature_is_sha512_keyed_with_the_api_secret(algorithm: str, *, valid: bool) -> None:
    signature = hmac.new(b"sk_live_first_secret", b"{}", getattr(hashlib, algorithm)).hexdigest()
    delivery = Delivery(CIMultiDict({"x-paystack-signature": signature}), b"{}", NOW)
    assert await example("paystack").is_authentic(delivery) == valid


@pytest.mark.parametrize(
    ("kind", "data", "facts"),
    [
        ("charge.success", CHARGE | FOR_42, [("payment", 5000, "NGN", "T1", 42)]),
        ("charge.success", CHARGE, [("payment", 5000, "NGN", "T1", "T1")]),
        ("charge.success", CHARGE | {"metadata": 0}, [("payment", 5000, "NGN", "T1", "T1")]),
        ("charge.success", CHARGE | {"metadata": ""}, [("payment", 5000, "NGN", "T1", "T1")]),
        ("charge.success", CHARGE | {"reference": "42"}, [("payment", 5000, "NGN", "42", 42)]),
        ("charge.success", CHARGE | {"amount": "5000"}, [("payment", 5000, "NGN", "T1", "T1")]),
        ("charge.success", CHARGE | {"currency": "XOF"}, [("payment", 50, "XOF", "T1", "T1")]),
        ("charge.success", CHARGE | {"currency": "XOF", "amount": 5050}, [("bad_amount",)]),
        ("charge.success", CHARGE | {"amount": 50.5}, [("bad_amount",)]),  # 73
        ("charge.success", CHARGE | {"amount": "50.00"}, [("bad_amount",)]),
        ("charge.success", CHARGE | {"amount": "１２"}, [("bad_amount",)]),  # noqa: RUF001 - 77
        ("charge.success", CHARGE | {"amount": True}, [("bad_amount",)]),  # 75
        ("charge.success", CHARGE | {"amount": "0"}, [("bad_amount",)]),  # 78
        ("charge.success", CHARGE | {"amount": 2**63}, [("bad_amount",)]),  # 79
        ("charge.success", CHARGE | {"currency": "XYZ"}, [("unknown_currency",)]),  # 83
        ("charge.success", CHARGE | {"reference": "T\0"}, [("unreadable",)]),  # 69
        ("charge.success", CHARGE | {"reference": None}, [("unreadable",)]),
        ("charge.success", [CHARGE], [("unreadable",)]),
        ("subscription.expiring_cards", [{"expiry_date": "12/2021"}], []),
        ("charge.failed", CHARGE, []),
        ("transfer.success", CHARGE, []),
        ("something.new", None, []),  # 106
        ("refund.processed", REFUND, [("refund", 500, "NGN", "132013318360", "T1")]),
        ("refund.processed", REFUND | {"id": 7}, [("refund", 500, "NGN", "7", "T1")]),
        ("refund.processed", REFUND | {"id": "7", "amount": 500}, [("refund", 500, "NGN", "7", "T1")]),
        ("refund.processed", REFUND | {"refund_reference": None}, [("unreadable",)]),
        ("refund.processed", REFUND | {"transaction_reference": ""}, [("unreadable",)]),
        ("refund.processed", REFUND | {"dispute": 358950}, []),
        ("refund.pending", REFUND | {"status": "pending"}, []),  # 91
        ("refund.processing", REFUND | {"status": "processing"}, []),
        ("refund.failed", REFUND | {"status": "failed"}, []),
        ("charge.dispute.create", DISPUTE | {"status": "awaiting-merchant-feedback", "resolution": None}, []),
        ("charge.dispute.remind", DISPUTE | {"status": "awaiting-merchant-feedback", "resolution": None}, []),
        ("charge.dispute.resolve", DISPUTE, [("chargeback", 5000, "NGN", "358950", "T1")]),
        ("charge.dispute.resolve", DISPUTE | {"currency": None}, [("chargeback", 5000, "NGN", "358950", "T1")]),
        (
            "charge.dispute.resolve",
            DISPUTE | {"transaction": CHARGE | FOR_42},
            [("chargeback", 5000, "NGN", "358950", 42)],
        ),
        ("charge.dispute.resolve", DISPUTE | {"resolution": "declined"}, []),
        ("charge.dispute.resolve", DISPUTE | {"refund_amount": 0}, []),
        ("charge.dispute.resolve", DISPUTE | {"refund_amount": None}, [("bad_amount",)]),
        ("charge.dispute.resolve", DISPUTE | {"transaction": None}, [("unreadable",)]),
    ],
)
async def test_an_event_is_what_it_means(kind: str, data: Any, facts: list[tuple[Any, ...]]) -> None:
    live = {"domain": "live"} | data if isinstance(data, dict) else data
    assert await what(kind, live) == facts


async def test_a_test_event_is_no_live_money() -> None:
    assert await what("charge.success", CHARGE | {"domain": "test"}) == [("wrong_mode",)]  # 92
    assert await what("charge.success", CHARGE | {"domain": "live"}, mode="test") == [("wrong_mode",)]
    assert await what("charge.success", CHARGE) == [("unreadable",)]


async def test_ids_are_made_of_what_is_signed() -> None:
    data = CHARGE | {"domain": "live"}
    [event] = await facts(example("paystack"), {"event": "charge.success", "data": data})
    assert isinstance(event, PaymentEvent)
    assert event.event_id == "T1:charge.success:success"


@pytest.mark.parametrize("body", payloads("paystack"))
@pytest.mark.parametrize("mode", ["live", "test"])
async def test_real_payloads_give_facts_or_a_named_reason(body: bytes, mode: str) -> None:
    for fact in await facts(example("paystack", mode=mode), body):
        assert isinstance(fact, PaymentEvent) or (
            isinstance(fact, DeadLetter) and fact.reason in {"unreadable", "wrong_mode", "bad_amount"}
        )

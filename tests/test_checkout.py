"""Checkout.com: what each event means."""

from typing import Any

import pytest
from multidict import CIMultiDict

from service.adapters.adapter import Delivery
from service.adapters.signatures import mac
from service.database import Link, PaymentEvent
from tests.providers import NOW, example, facts, in_short, payloads, vectors

LIVE = "https://api.checkout.com/workflows/events/evt_1"
SANDBOX = "https://prefix.api.sandbox.checkout.com/workflows/events/evt_1"
PAID: dict[str, Any] = {"id": "pay_1", "action_id": "act_1", "reference": "42", "amount": 5000, "currency": "EUR"}
REFUND: dict[str, Any] = PAID | {"action_id": "act_2", "reference": "7", "amount": 500}
DISPUTE: dict[str, Any] = {
    "id": "dsp_1", "amount": 5000, "currency": "EUR", "payment_id": "pay_1", "payment_reference": "42"
}  # fmt: skip
TAKEN = [("chargeback", 5000, "EUR", "dsp_1", "pay_1")]
GIVEN = [("chargeback_reversal", 5000, "EUR", "dsp_1", "pay_1")]


def event(kind: str, data: dict[str, Any], href: str | None = LIVE) -> dict[str, Any]:
    links = {"_links": {"self": {"href": href}}} if href else {}
    return {"id": "evt_1", "type": kind, "created_on": "2026-09-21T12:13:20.7515599Z", "data": data} | links


async def what(kind: str, data: dict[str, Any], href: str | None = LIVE, **settings: Any) -> list[tuple[Any, ...]]:
    return in_short(await facts(example("checkout", **settings), event(kind, data, href)))


def paid(amount: int, currency: str = "EUR", invoice: object = 42) -> list[tuple[Any, ...]]:
    return [("payment", amount, currency, "act_1", invoice), ("link", "pay_1", invoice)]


@pytest.mark.parametrize("vector", vectors("checkout"))
async def test_the_vectors_of_others_agree(vector: dict[str, Any]) -> None:
    delivery = Delivery(CIMultiDict(vector["headers"]), vector["body"].encode(), NOW)
    assert await example("checkout", webhook_secrets=[vector["secret"]]).is_authentic(delivery) == vector["valid"]


async def test_the_signature_is_an_hmac_of_the_body_in_hex() -> None:
    delivery = Delivery(CIMultiDict({"cko-signature": mac(b"first_signature_key", b"{}")}), b"{}", NOW)
    assert len(delivery.header("Cko-Signature")) == 64
    assert await example("checkout").is_authentic(delivery)


@pytest.mark.parametrize(
    ("kind", "data", "facts"),
    [
        ("payment_captured", PAID, paid(5000)),
        ("payment_captured", PAID | {"reference": "I7"}, paid(5000, invoice="I7")),
        ("payment_captured", PAID | {"reference": "I7", "metadata": {"invoice_id": 42}}, paid(5000)),
        ("payment_captured", PAID | {"reference": None}, [("payment", 5000, "EUR", "act_1", "act_1")]),
        ("payment_captured", PAID | {"amount": 0}, [("bad_amount",)]),  # 78
        ("payment_captured", PAID | {"amount": 100.5}, [("bad_amount",)]),  # 73
        ("payment_captured", PAID | {"amount": "5000"}, [("bad_amount",)]),  # 76
        ("payment_captured", PAID | {"amount": True}, [("bad_amount",)]),  # 75
        ("payment_captured", PAID | {"amount": 2**63}, [("bad_amount",)]),  # 79
        ("payment_captured", PAID | {"currency": "XYZ"}, [("unknown_currency",)]),  # 83
        ("payment_captured", PAID | {"currency": "CLP"}, paid(50, "CLP")),
        ("payment_captured", PAID | {"currency": "CLP", "amount": 5001}, [("bad_amount",)]),
        ("payment_captured", PAID | {"currency": "ISK"}, paid(5000, "ISK")),
        ("payment_captured", PAID | {"currency": "UGX"}, paid(5000, "UGX")),
        ("payment_captured", PAID | {"currency": "BHD"}, paid(5000, "BHD")),
        ("payment_captured", PAID | {"currency": "JPY"}, paid(5000, "JPY")),
        ("payment_captured", PAID | {"action_id": "act\0"}, [("unreadable",)]),  # 69
        ("payment_captured", PAID | {"action_id": None}, [("unreadable",)]),
        ("payment_approved", PAID, []),
        ("payment_declined", PAID, []),
        ("payment_voided", PAID, []),
        ("payment_capture_pending", PAID, []),
        ("payment_capture_declined", PAID, []),
        ("payment_refunded", REFUND, [("refund", 500, "EUR", "act_2", "pay_1")]),
        ("payment_refunded", REFUND | {"id": None}, [("unreadable",)]),
        ("payment_refund_pending", REFUND, []),  # 91
        ("payment_refund_declined", REFUND, []),
        ("payment_returned", REFUND, [("chargeback", 500, "EUR", "act_2", "pay_1")]),
        ("payment_returned", REFUND | {"destination": {"type": "bank_account"}}, []),
        ("dispute_evidence_required", DISPUTE, TAKEN),
        ("dispute_evidence_submitted", DISPUTE, []),
        ("dispute_accepted", DISPUTE, TAKEN),
        ("dispute_expired", DISPUTE, TAKEN),
        ("dispute_lost", DISPUTE, TAKEN),
        ("dispute_arbitration_lost", DISPUTE, TAKEN),
        ("dispute_won", DISPUTE, GIVEN),
        ("dispute_canceled", DISPUTE, GIVEN),
        ("dispute_arbitration_won", DISPUTE, GIVEN),
        ("dispute_resolved", DISPUTE | {"resolved_reason": "already_refunded"}, []),
        ("dispute_resolved", DISPUTE | {"resolved_reason": "rapid_dispute_resolution"}, TAKEN),
        ("dispute_lost", DISPUTE | {"payment_id": None}, [("unreadable",)]),
        ("something_new", {}, []),  # 106
    ],
)
async def test_an_event_is_what_it_means(kind: str, data: dict[str, Any], facts: list[tuple[Any, ...]]) -> None:
    assert await what(kind, data) == facts


async def test_what_follows_a_payment_names_it_as_the_capture_does() -> None:
    [_, link] = await facts(example("checkout"), event("payment_captured", PAID))
    [refund] = await facts(example("checkout"), event("payment_refunded", REFUND))
    assert isinstance(link, Link)
    assert isinstance(refund, PaymentEvent)
    assert link.reference == refund.parent_reference == refund.invoice_reference
    assert (refund.event_id, refund.invoice_id) == ("evt_1", None)
    assert refund.occurred_at is not None


async def test_a_sandbox_event_or_anothers_is_no_live_money() -> None:
    assert await what("payment_captured", PAID, SANDBOX) == [("wrong_mode",)]  # 92
    assert await what("payment_captured", PAID, LIVE, mode="test") == [("wrong_mode",)]
    assert await what("payment_captured", PAID, SANDBOX, mode="test") == paid(5000)
    assert await what("payment_captured", PAID, None) == paid(5000)
    assert await what("payment_approved", PAID, SANDBOX) == []
    assert await what("payment_captured", PAID, account="pc_1") == [("wrong_account",)]
    assert await what("payment_captured", PAID | {"processing_channel_id": "pc_1"}, account="pc_1") == paid(5000)


@pytest.mark.parametrize("body", payloads("checkout"))
async def test_real_payloads_give_facts_or_a_named_reason(body: bytes) -> None:
    for fact in await facts(example("checkout"), body):
        assert isinstance(fact, PaymentEvent | Link) or fact.reason in {"unreadable", "wrong_mode", "unknown_currency"}

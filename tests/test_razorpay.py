"""Razorpay: signatures, and what each event means."""

import json
from typing import Any

import pytest
from multidict import CIMultiDict

from service.adapters.adapter import Delivery
from service.database import Link, PaymentEvent
from tests.providers import NOW, example, facts, in_short, payloads, signed, vectors

PAY: dict[str, Any] = {"id": "pay_1", "amount": 5000, "currency": "INR", "status": "captured", "notes": []}
FOR_42 = {"notes": {"invoice_id": "42"}}
REFUND: dict[str, Any] = PAY | {"id": "rfnd_1", "payment_id": "pay_1", "amount": 500, "status": "processed"}
DISPUTE: dict[str, Any] = {"id": "disp_1", "payment_id": "pay_1", "amount": 5000, "currency": "INR", "status": "lost"}
ORDER: dict[str, Any] = {"id": "order_1", "amount": 5000, "notes": [], "receipt": "INV-7"}
TAKEN = ("chargeback", 5000, "INR", "disp_1", "pay_1")


def event(kind: str, *, account: str = "acc_1", **entities: dict[str, Any]) -> dict[str, Any]:
    payload = {name: {"entity": entity} for name, entity in entities.items()}
    return {"event": kind, "account_id": account, "created_at": 1_790_000_000, "payload": payload}


async def what(body: dict[str, Any], **settings: Any) -> list[tuple[Any, ...]]:
    return in_short(await facts(example("razorpay", **settings), body))


@pytest.mark.parametrize("vector", vectors("razorpay"))
async def test_the_vectors_of_others_agree(vector: dict[str, Any]) -> None:
    delivery = Delivery(CIMultiDict(vector["headers"]), vector["body"].encode(), NOW)
    adapter = example("razorpay", webhook_secrets=[vector["secret"]])
    assert await adapter.is_authentic(delivery) == vector["valid"]


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        (event("payment.captured", payment=PAY | FOR_42), [("payment", 5000, "INR", "pay_1", 42)]),
        (event("payment.captured", payment=PAY), [("payment", 5000, "INR", "pay_1", "pay_1")]),
        (event("payment.captured", payment=PAY | {"currency": "JPY"}), [("payment", 5000, "JPY", "pay_1", "pay_1")]),
        (event("payment.captured", payment=PAY | {"currency": "KWD"}), [("payment", 5000, "KWD", "pay_1", "pay_1")]),
        (event("payment.captured", payment=PAY | {"amount": 50.5}), [("bad_amount",)]),  # 73
        (event("payment.captured", payment=PAY | {"amount": "5000"}), [("bad_amount",)]),  # 76
        (event("payment.captured", payment=PAY | {"amount": True}), [("bad_amount",)]),  # 75
        (event("payment.captured", payment=PAY | {"amount": 0}), [("bad_amount",)]),  # 78
        (event("payment.captured", payment=PAY | {"amount": 2**63}), [("bad_amount",)]),  # 79
        (event("payment.captured", payment=PAY | {"currency": "XYZ"}), [("unknown_currency",)]),  # 83
        (event("payment.captured", payment=PAY | {"id": "pay\0"}), [("unreadable",)]),  # 69
        (event("payment.captured", payment=PAY | {"notes": {"invoice_id": [42]}}), [("unreadable",)]),
        (event("payment.captured"), [("unreadable",)]),
        (event("payment.authorized", payment=PAY), []),
        (event("payment.failed", payment=PAY), []),
        (event("something.new"), []),  # 106
        (event("order.paid", order=ORDER, payment=PAY), [("link", "pay_1", "INV-7")]),
        (event("order.paid", order=ORDER | FOR_42, payment=PAY), [("link", "pay_1", 42)]),
        (event("order.paid", order=ORDER | {"receipt": None}, payment=PAY), []),
        (event("payment_link.paid", payment_link=FOR_42, order=ORDER, payment=PAY), [("link", "pay_1", 42)]),
        (event("payment_link.partially_paid", payment_link=FOR_42, payment=PAY), [("link", "pay_1", 42)]),
        (event("refund.processed", refund=REFUND, payment=PAY), [("refund", 500, "INR", "rfnd_1", "pay_1")]),
        (event("refund.processed", refund=REFUND, payment=PAY | FOR_42), [("refund", 500, "INR", "rfnd_1", 42)]),
        (event("refund.processed", refund=REFUND | {"payment_id": None}), [("unreadable",)]),
        (event("refund.processed", refund=REFUND, payment=PAY | {"captured": False}), []),  # never was a payment
        (event("refund.processed", refund=REFUND), [("refund", 500, "INR", "rfnd_1", "pay_1")]),
        (event("refund.created", refund=REFUND, payment=PAY), []),  # 91
        (event("refund.failed", refund=REFUND, payment=PAY), []),
        (event("payment.dispute.created", dispute=DISPUTE | {"amount_deducted": 0}), []),
        (event("payment.dispute.created", dispute=DISPUTE | {"amount_deducted": 5000}), [TAKEN]),
        (event("payment.dispute.under_review", dispute=DISPUTE | {"amount_deducted": 5000}), []),
        (event("payment.dispute.lost", dispute=DISPUTE | {"amount_deducted": 5000}), [TAKEN]),
        (event("payment.dispute.lost", dispute=DISPUTE | {"amount_deducted": 0}), []),
        (event("payment.dispute.lost", dispute=DISPUTE), [("bad_amount",)]),
        (event("payment.dispute.won", dispute=DISPUTE | {"amount_deducted": 0}), []),
        (
            event("payment.dispute.won", dispute=DISPUTE | {"amount_deducted": 5000}),
            [("chargeback_reversal", 5000, "INR", "disp_1", "pay_1")],
        ),
        (event("payment.dispute.closed", dispute=DISPUTE | {"amount_deducted": 0}), []),
    ],
)
async def test_an_event_is_what_it_means(body: dict[str, Any], facts: list[tuple[Any, ...]]) -> None:
    assert await what(body) == facts


async def test_a_replay_under_another_header_id_is_the_same_event() -> None:
    adapter = example("razorpay")
    delivery = signed(adapter, json.dumps(event("payment.captured", payment=PAY)).encode())
    ids = set()
    for unsigned in ("evt_1", "evt_2"):  # 60
        replay = delivery._replace(headers=CIMultiDict(delivery.headers, **{"X-Razorpay-Event-Id": unsigned}))
        assert await adapter.is_authentic(replay)
        ids |= {fact.event_id for fact in await adapter.facts(replay) if isinstance(fact, PaymentEvent)}
    assert ids == {"pay_1:payment.captured:captured"}


async def test_another_accounts_event_is_no_money_of_ours() -> None:
    body = event("payment.captured", payment=PAY, account="acc_2")
    assert await what(body, account="acc_1") == [("wrong_account",)]
    assert len(await what(body, account="acc_2")) == 1


@pytest.mark.parametrize("body", payloads("razorpay"))
async def test_real_payloads_give_facts_or_a_named_reason(body: bytes) -> None:
    for fact in await facts(example("razorpay"), body):
        assert isinstance(fact, PaymentEvent | Link) or fact.reason == "unreadable"

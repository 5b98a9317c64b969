"""Lemon Squeezy: signatures, and what each event means."""

from typing import Any

import pytest
from multidict import CIMultiDict

from service.adapters.adapter import Delivery
from service.database import DeadLetter, PaymentEvent
from tests.providers import NOW, example, facts, in_short, payloads, vectors

PAID: dict[str, Any] = {"status": "paid", "total": 5000, "currency": "USD", "store_id": 1, "test_mode": False}
REFUNDED = PAID | {"status": "refunded", "refunded": True, "refunded_amount": 5000}
PARTLY = PAID | {"status": "partial_refund", "refunded_amount": 500}
FOR_42 = {"custom_data": {"invoice_id": "42"}}


def event(name: str, order: Any, *, order_id: object = "7", **meta: Any) -> dict[str, Any]:
    return {"meta": {"event_name": name} | meta, "data": {"type": "orders", "id": order_id, "attributes": order}}


async def what(body: dict[str, Any], **settings: Any) -> list[tuple[Any, ...]]:
    return in_short(await facts(example("lemonsqueezy", **settings), body))


@pytest.mark.parametrize("vector", vectors("lemonsqueezy"))
async def test_the_vectors_of_others_agree(vector: dict[str, Any]) -> None:
    delivery = Delivery(CIMultiDict(vector["headers"]), vector["body"].encode(), NOW)
    adapter = example("lemonsqueezy", webhook_secrets=[vector["secret"]])
    assert await adapter.is_authentic(delivery) == vector["valid"]


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        (event("order_created", PAID, **FOR_42), [("payment", 5000, "USD", "7", 42)]),
        (event("order_created", PAID), [("payment", 5000, "USD", "7", "7")]),
        (event("order_created", PAID, custom_data=[]), [("payment", 5000, "USD", "7", "7")]),
        (event("order_created", PAID | {"status": "pending"}), []),
        (event("order_created", PAID | {"status": "failed"}), []),
        (event("order_created", PAID | {"total": 0}), []),  # 88
        (event("order_created", PAID | {"total": 50.5}), [("bad_amount",)]),  # 73
        (event("order_created", PAID | {"total": "5000"}), [("bad_amount",)]),  # 76
        (event("order_created", PAID | {"total": True}), [("bad_amount",)]),  # 75
        (event("order_created", PAID | {"total": -1}), [("bad_amount",)]),  # 78
        (event("order_created", PAID | {"total": 2**63}), [("bad_amount",)]),  # 79
        (event("order_created", PAID | {"currency": "XYZ"}), [("unknown_currency",)]),  # 83
        (event("order_created", PAID, order_id="7\0"), [("unreadable",)]),  # 69
        (event("order_created", PAID, order_id=None), [("unreadable",)]),
        (event("order_created", [PAID]), [("unreadable",)]),
        (event("subscription_payment_success", PAID), []),
        (event("something_new", None), []),  # 106
        (event("order_refunded", REFUNDED, **FOR_42), [("refund", 5000, "USD", "7/refund", 42)]),
        (event("order_refunded", REFUNDED), [("refund", 5000, "USD", "7/refund", "7")]),
        (event("order_refunded", REFUNDED | {"refunded_amount": None}), [("refund", 5000, "USD", "7/refund", "7")]),
        (event("order_refunded", PARTLY), [("refund", 500, "USD", "7/refund", "7")]),
        (event("order_refunded", PARTLY | {"refunded_amount": None}), [("bad_amount",)]),
        (event("order_refunded", PARTLY | {"refunded_amount": 0}), [("bad_amount",)]),
    ],
)
async def test_an_event_is_what_it_means(body: dict[str, Any], facts: list[tuple[Any, ...]]) -> None:
    assert await what(body) == facts


async def test_a_larger_sum_of_refunds_is_the_same_movement() -> None:
    ids = []
    for order in (PARTLY, PARTLY | {"refunded_amount": 700}, REFUNDED):
        [refund] = await facts(example("lemonsqueezy"), event("order_refunded", order))
        assert isinstance(refund, PaymentEvent)
        ids.append((refund.event_id, refund.reference))
    assert ids == [
        ("7:order_refunded:partial_refund", "7/refund"),
        ("7:order_refunded:partial_refund", "7/refund"),
        ("7:order_refunded:refunded", "7/refund"),
    ]


async def test_a_test_event_is_no_live_money() -> None:
    silent = {key: value for key, value in PAID.items() if key != "test_mode"}
    assert await what(event("order_created", PAID | {"test_mode": True})) == [("wrong_mode",)]  # 92
    assert await what(event("order_created", PAID, test_mode=True)) == [("wrong_mode",)]
    assert await what(event("order_created", PAID), mode="test") == [("wrong_mode",)]
    assert len(await what(event("order_created", silent, test_mode=True), mode="test")) == 1
    assert await what(event("order_created", silent)) == [("unreadable",)]


async def test_another_stores_event_is_no_money_of_ours() -> None:
    assert await what(event("order_created", PAID), account="2") == [("wrong_account",)]
    assert await what(event("order_created", PAID), account="1") == [("payment", 5000, "USD", "7", "7")]


@pytest.mark.parametrize("body", payloads("lemonsqueezy"))
@pytest.mark.parametrize("mode", ["live", "test"])
async def test_real_payloads_give_facts_or_a_named_reason(body: bytes, mode: str) -> None:
    for fact in await facts(example("lemonsqueezy", mode=mode), body):
        assert isinstance(fact, PaymentEvent) or (
            isinstance(fact, DeadLetter) and fact.reason in {"unreadable", "wrong_mode", "bad_amount"}
        )

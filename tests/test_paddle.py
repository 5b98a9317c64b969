"""Paddle: signatures, and what each event means."""

from typing import Any

import pytest
from multidict import CIMultiDict
from pydantic import ValidationError

from service.adapters.adapter import Delivery
from service.database import DeadLetter, PaymentEvent
from tests.providers import NOW, example, facts, in_short, payloads, signed, vectors

PAID: dict[str, Any] = {
    "id": "txn_1", "currency_code": "USD", "custom_data": {"invoice_id": "42"},
    "details": {"totals": {"total": "6000", "credit": "1000", "grand_total": "5000"}},
}  # fmt: skip
REFUND: dict[str, Any] = {
    "id": "adj_1", "action": "refund", "status": "approved", "transaction_id": "txn_1", "currency_code": "USD",
    "totals": {"total": "500", "fee": "5"},
}  # fmt: skip
TAKEN = REFUND | {"action": "chargeback"}
GIVEN_BACK = ("chargeback_reversal", 500, "USD", "txn_1/chargeback", "txn_1")


def grand_total(total: object, currency: str = "USD") -> dict[str, Any]:
    return PAID | {"currency_code": currency, "details": {"totals": {"grand_total": total}}}


async def what(kind: str, data: Any) -> list[tuple[Any, ...]]:
    return in_short(await facts(example("paddle"), {"event_id": "evt_1", "event_type": kind, "data": data}))


@pytest.mark.parametrize("vector", vectors("paddle"))
async def test_the_vectors_of_others_agree(vector: dict[str, Any]) -> None:
    delivery = Delivery(CIMultiDict(vector["headers"]), vector["body"].encode(), vector["now"])
    adapter = example("paddle", webhook_secrets=[vector["secret"]], tolerance=vector["tolerance"])
    assert await adapter.is_authentic(delivery) == vector["valid"]


@pytest.mark.parametrize(
    ("off", "tolerance", "valid"), [(-5, 5, True), (5, 5, True), (-6, 5, False), (6, 5, False), (-6, 10, True)]
)
async def test_a_timestamp_may_be_off_by_the_tolerance(off: int, tolerance: int, *, valid: bool) -> None:
    adapter = example("paddle", tolerance=tolerance)
    assert await adapter.is_authentic(signed(adapter, b"{}", NOW + off)) == valid  # 43, 44


@pytest.mark.parametrize("tolerance", [0, -1, 301, "soon"])
def test_a_tolerance_is_seconds_and_few(tolerance: object) -> None:
    with pytest.raises(ValidationError):
        example("paddle", tolerance=tolerance)


@pytest.mark.parametrize(
    ("old", "new", "valid"),
    [
        ("h1=", "h1=dummy;h1=", True),  # 38
        ("ts=1790000000", "ts=1790000000;ts=1790000000", False),  # 42
        ("ts=1790000000", "ts=+1790000000", False),  # 45
        ("ts=1790000000", "ts=1790000000.9", False),
        ("ts=1790000000", "ts=١٧٩", False),
        ("ts=1790000000", "ts=" + "1" * 400, False),
        ("ts=1790000000;", "", False),
        ("h1=", "h2=", False),  # 40
        ("h1=", "h1=dummy;" * 17 + "h1=", False),  # 39
    ],
)
async def test_a_header_is_one_timestamp_and_a_few_signatures(old: str, new: str, *, valid: bool) -> None:
    adapter = example("paddle")
    delivery = signed(adapter, b"{}")
    value = delivery.headers["Paddle-Signature"].replace(old, new)
    changed = delivery._replace(headers=CIMultiDict({"Paddle-Signature": value}))
    assert await adapter.is_authentic(changed) == valid


@pytest.mark.parametrize(
    ("kind", "data", "facts"),
    [
        ("transaction.completed", PAID, [("payment", 5000, "USD", "txn_1", 42)]),
        ("transaction.completed", PAID | {"custom_data": None}, [("payment", 5000, "USD", "txn_1", "txn_1")]),
        ("transaction.completed", grand_total("5000", "JPY"), [("payment", 5000, "JPY", "txn_1", 42)]),
        ("transaction.completed", grand_total("0"), []),  # 88
        ("transaction.completed", grand_total(5000), [("bad_amount",)]),
        ("transaction.completed", grand_total("50.00"), [("bad_amount",)]),  # 73
        ("transaction.completed", grand_total(" 12_3 "), [("bad_amount",)]),  # 77
        ("transaction.completed", grand_total("-5"), [("bad_amount",)]),  # 78
        ("transaction.completed", grand_total("9" * 19), [("bad_amount",)]),  # 79
        ("transaction.completed", grand_total(None), [("bad_amount",)]),
        ("transaction.completed", grand_total("5000", "XYZ"), [("unknown_currency",)]),  # 83
        ("transaction.completed", PAID | {"id": "txn\0"}, [("unreadable",)]),  # 69
        ("transaction.completed", [PAID], [("bad_amount",)]),
        ("transaction.paid", PAID, []),
        ("transaction.billed", PAID, []),
        ("customer.created", {"id": "ctm_1"}, []),
        ("something.new", None, []),  # 106
        ("adjustment.updated", REFUND, [("refund", 500, "USD", "adj_1", "txn_1")]),
        ("adjustment.created", REFUND, [("refund", 500, "USD", "adj_1", "txn_1")]),
        ("adjustment.created", REFUND | {"status": "pending_approval"}, []),  # 91
        ("adjustment.updated", REFUND | {"status": "rejected"}, []),
        ("adjustment.updated", REFUND | {"status": "reversed"}, [("refund_reversal", 500, "USD", "adj_1", "txn_1")]),
        ("adjustment.updated", REFUND | {"transaction_id": None}, [("unreadable",)]),
        ("adjustment.updated", REFUND | {"totals": {"total": 500}}, [("bad_amount",)]),
        ("adjustment.created", REFUND | {"action": "credit"}, []),
        ("adjustment.created", REFUND | {"action": "credit_reverse"}, []),
        ("adjustment.created", TAKEN, [("chargeback", 500, "USD", "txn_1/chargeback", "txn_1")]),
        ("adjustment.updated", TAKEN | {"status": "reversed"}, [GIVEN_BACK]),
        ("adjustment.created", TAKEN | {"id": "adj_2", "action": "chargeback_reverse"}, [GIVEN_BACK]),
        ("adjustment.created", TAKEN | {"action": "chargeback_warning"}, [("chargeback_warning",)]),
        ("adjustment.created", TAKEN | {"action": "chargeback_warning_reverse"}, [("chargeback_warning_reverse",)]),
    ],
)
async def test_an_event_is_what_it_means(kind: str, data: Any, facts: list[tuple[Any, ...]]) -> None:
    assert await what(kind, data) == facts


@pytest.mark.parametrize("body", payloads("paddle"))
async def test_real_payloads_give_facts_or_a_named_reason(body: bytes) -> None:
    kinds = ("transaction.completed", "adjustment.updated")
    bodies = [body, *(b'{"event_id": "evt_1", "event_type": "%b", "data": %b}' % (k.encode(), body) for k in kinds)]
    for each in bodies:
        for fact in await facts(example("paddle"), each):
            assert isinstance(fact, PaymentEvent) or (
                isinstance(fact, DeadLetter) and fact.reason in {"unreadable", "bad_amount"}
            )

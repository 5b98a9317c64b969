"""Square: the URL is signed too, and what each event means."""

from typing import Any

import pytest
from multidict import CIMultiDict
from pydantic import ValidationError

from service.adapters.adapter import Delivery
from service.database import PaymentEvent
from tests.providers import NOW, example, facts, in_short, signed, vectors

EUR = {"amount": 5000, "currency": "EUR"}
PAID: dict[str, Any] = {
    "id": "P1",
    "status": "COMPLETED",
    "total_money": EUR,
    "amount_money": EUR,
    "reference_id": "42",
}
REFUND: dict[str, Any] = {"id": "P1_R1", "status": "COMPLETED", "amount_money": EUR, "payment_id": "P1"}
DISPUTE: dict[str, Any] = {"id": "D1", "amount_money": EUR, "disputed_payment": {"payment_id": "P1"}}


def event(kind: str, thing: dict[str, Any], **fields: Any) -> dict[str, Any]:
    data = {"type": kind.partition(".")[0], "id": thing.get("id"), "object": {kind.partition(".")[0]: thing}}
    created = "2026-09-21T12:13:20.037339943Z"
    return {"merchant_id": "M1", "type": kind, "event_id": "E1", "created_at": created, "data": data} | fields


async def what(kind: str, thing: dict[str, Any], **settings: Any) -> list[tuple[Any, ...]]:
    return in_short(await facts(example("square", **settings), event(kind, thing)))


@pytest.mark.parametrize("vector", vectors("square"))
async def test_the_vectors_of_others_agree(vector: dict[str, Any]) -> None:
    adapter = example("square", webhook_secrets=[vector["secret"]], notification_url=vector["notification_url"])
    delivery = Delivery(CIMultiDict(vector["headers"]), vector["body"].encode(), NOW)
    assert await adapter.is_authentic(delivery) == vector["valid"]


async def test_the_example_of_squares_libraries_is_authentic() -> None:
    url = "https://webhook.site/679a4f3a-dcfa-49ee-bac5-9d0edad886b9"
    body = (
        b'{"merchant_id":"MLEFBHHSJGVHD","type":"webhooks.test_notification",'
        b'"event_id":"ac3ac95b-f97d-458c-a6e6-18981597e05f","created_at":"2022-07-13T20:30:59.037339943Z",'
        b'"data":{"type":"webhooks","id":"bc368e64-01aa-407e-b46e-3231809b1129"}}'
    )
    headers = CIMultiDict({"X-Square-HmacSha256-Signature": "GF4YkrJgGBDZ9NIYbNXBnMzqb2HoL4RW/S6vkZ9/2N4="})
    adapter = example("square", webhook_secrets=["Ibxx_5AKakO-3qeNVR61Dw"], notification_url=url)
    assert await adapter.is_authentic(Delivery(headers, body, NOW))
    assert await adapter.facts(Delivery(headers, body, NOW)) == []


async def test_the_url_is_ours_and_not_the_requests() -> None:
    delivery = signed(example("square", notification_url="https://evil.example.com/"), b"{}")
    delivery.headers.add("Host", "evil.example.com")  # type: ignore[attr-defined]
    assert not await example("square").is_authentic(delivery)


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "pay.example.com/webhooks",
        "ftp://pay.example.com",
        "https://pay .example",
        "https://pay.example/{body}",
    ],
)
def test_the_url_has_to_be_configured(url: str | None) -> None:
    with pytest.raises(ValidationError, match="notification_url"):
        example("square", notification_url=url)


@pytest.mark.parametrize(
    ("kind", "thing", "facts"),
    [
        ("payment.updated", PAID, [("payment", 5000, "EUR", "P1", 42)]),
        ("payment.created", PAID, [("payment", 5000, "EUR", "P1", 42)]),
        ("payment.updated", PAID | {"reference_id": "I7"}, [("payment", 5000, "EUR", "P1", "I7")]),
        ("payment.updated", PAID | {"reference_id": None}, [("payment", 5000, "EUR", "P1", "P1")]),
        (
            "payment.updated",
            PAID | {"tip_money": EUR | {"amount": 500}, "total_money": EUR | {"amount": 5500}},
            [("payment", 5500, "EUR", "P1", 42)],
        ),
        ("payment.updated", PAID | {"status": "APPROVED"}, []),
        ("payment.updated", PAID | {"status": "PENDING"}, []),
        ("payment.updated", PAID | {"status": "CANCELED"}, []),
        ("payment.updated", PAID | {"status": "FAILED"}, []),
        ("payment.updated", PAID | {"status": None}, [("unreadable",)]),
        ("payment.updated", PAID | {"total_money": EUR | {"amount": 0}}, []),  # 88
        ("payment.updated", PAID | {"total_money": EUR | {"amount": 100.5}}, [("bad_amount",)]),  # 73
        ("payment.updated", PAID | {"total_money": EUR | {"amount": "5000"}}, [("bad_amount",)]),  # 76
        ("payment.updated", PAID | {"total_money": EUR | {"amount": True}}, [("bad_amount",)]),  # 75
        ("payment.updated", PAID | {"total_money": EUR | {"amount": -1}}, [("bad_amount",)]),  # 78
        ("payment.updated", PAID | {"total_money": EUR | {"amount": 2**63}}, [("bad_amount",)]),  # 79
        ("payment.updated", PAID | {"total_money": EUR | {"currency": "XYZ"}}, [("unknown_currency",)]),  # 83
        ("payment.updated", PAID | {"total_money": None}, [("payment", 5000, "EUR", "P1", 42)]),
        ("payment.updated", PAID | {"total_money": None, "amount_money": []}, [("unknown_currency",)]),
        ("payment.updated", PAID | {"total_money": EUR | {"currency": "JPY"}}, [("payment", 5000, "JPY", "P1", 42)]),
        ("payment.updated", PAID | {"id": "P\0"}, [("unreadable",)]),  # 69
        ("refund.created", REFUND | {"status": "PENDING"}, []),  # 91
        ("refund.created", REFUND, [("refund", 5000, "EUR", "P1_R1", "P1")]),
        ("refund.updated", REFUND, [("refund", 5000, "EUR", "P1_R1", "P1")]),
        ("refund.updated", REFUND | {"status": "FAILED"}, []),
        ("refund.updated", REFUND | {"status": "REJECTED"}, []),
        ("refund.updated", REFUND | {"payment_id": None, "unlinked": True}, [("no_invoice",)]),
        ("dispute.created", DISPUTE | {"state": "INQUIRY_EVIDENCE_REQUIRED"}, []),
        ("dispute.state.updated", DISPUTE | {"state": "INQUIRY_CLOSED"}, []),
        ("dispute.created", DISPUTE | {"state": "EVIDENCE_REQUIRED"}, [("chargeback", 5000, "EUR", "D1", "P1")]),
        ("dispute.state.updated", DISPUTE | {"state": "PROCESSING"}, [("chargeback", 5000, "EUR", "D1", "P1")]),
        ("dispute.state.updated", DISPUTE | {"state": "LOST"}, [("chargeback", 5000, "EUR", "D1", "P1")]),
        ("dispute.state.updated", DISPUTE | {"state": "ACCEPTED"}, [("chargeback", 5000, "EUR", "D1", "P1")]),
        ("dispute.state.updated", DISPUTE | {"state": "WON"}, [("chargeback_reversal", 5000, "EUR", "D1", "P1")]),
        (
            "dispute.state.changed",
            DISPUTE | {"state": "WON", "id": None, "dispute_id": "D1"},
            [("chargeback_reversal", 5000, "EUR", "D1", "P1")],
        ),
        ("dispute.created", DISPUTE | {"state": "LOST", "disputed_payment": None}, [("no_invoice",)]),
        ("dispute.evidence.created", {"id": "D1"}, []),
        ("invoice.payment_made", {"id": "I1"}, []),
        ("something.new", {}, []),  # 106
    ],
)  # fmt: skip
async def test_an_event_is_what_it_means(kind: str, thing: dict[str, Any], facts: list[tuple[Any, ...]]) -> None:
    assert await what(kind, thing) == facts


async def test_an_event_of_another_seller_is_not_ours() -> None:
    assert await what("payment.updated", PAID, account="M2") == [("wrong_account",)]
    assert await what("payment.updated", PAID, account="M1") == [("payment", 5000, "EUR", "P1", 42)]


async def test_the_event_id_is_squares() -> None:
    [fact] = await facts(example("square"), event("payment.updated", PAID))
    assert isinstance(fact, PaymentEvent)
    assert fact.event_id == "E1"
    assert fact.occurred_at is not None

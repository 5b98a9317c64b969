"""Adyen: a batch is signed item by item, in its body, and what each event means."""

import json
from typing import Any

import pytest
from multidict import CIMultiDict
from pydantic import ValidationError

from service.adapters.adapter import Adapter, Delivery
from service.adapters.adyen_signature import signature
from service.adapters.payload import Payload
from service.database import DeadLetter, Link, PaymentEvent
from tests.providers import EXAMPLES, NOW, example, facts, in_short, payloads, vectors

KEY = EXAMPLES["adyen"]["webhook_secrets"][0]
PAID: dict[str, Any] = {
    "pspReference": "PSP1", "merchantAccountCode": "Shop", "merchantReference": "42", "paymentMethod": "visa",
    "amount": {"value": 5000, "currency": "EUR"}, "eventDate": "2026-09-21T14:13:20+02:00", "success": "true",
}  # fmt: skip
LATER = PAID | {"pspReference": "PSP2", "originalReference": "PSP1", "merchantReference": "7"}
CANCEL = LATER | {"additionalData": {"modification.action": "cancel"}}
REFUND = LATER | {"additionalData": {"modification.action": "refund"}}
POSTED = ("payment", 5000, "EUR", "PSP1", 42)


def batch(*items: object, live: object = "true") -> dict[str, Any]:
    return {"live": live, "notificationItems": [{"NotificationRequestItem": item} for item in items]}


def seal(item: dict[str, Any], key: str = KEY) -> dict[str, Any]:
    return item | {"additionalData": {"hmacSignature": signature(key, Payload(item))}}


async def authentic(body: object, adapter: Adapter | None = None) -> bool:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await (adapter or example("adyen")).is_authentic(Delivery(CIMultiDict(), raw, NOW))


async def what(code: str, item: dict[str, Any], live: object = "true", **settings: Any) -> list[tuple[Any, ...]]:
    return in_short(await facts(example("adyen", **settings), batch(item | {"eventCode": code}, live=live)))


@pytest.mark.parametrize("vector", [v for v in vectors("adyen") if v.values[0]["scheme"] == "adyen-notification"])
async def test_the_vectors_of_others_agree(vector: dict[str, Any]) -> None:
    item = json.loads(vector["body"])
    body = item if "notificationItems" in item else batch(item)
    assert await authentic(body, example("adyen", webhook_secrets=[vector["secret"]])) == vector["valid"]


async def test_the_example_of_adyens_libraries_is_authentic() -> None:
    item = {
        "pspReference": "7914073381342284", "merchantReference": "TestPayment-1407325143704", "success": "true",
        "merchantAccountCode": "TestMerchant", "eventCode": "AUTHORISATION",
        "amount": {"currency": "EUR", "value": 1130},
        "additionalData": {"hmacSignature": "coqCmt/IZ4E3CzPvMY8zTjQVL5hYJUiBRg8UU+iCWo0="},
    }  # fmt: skip
    key = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
    assert await authentic(batch(item), example("adyen", webhook_secrets=[key]))


@pytest.mark.parametrize(
    "mangle",
    [
        pytest.param(lambda item: item["additionalData"].pop("hmacSignature"), id="55 missing"),
        pytest.param(lambda item: item.pop("additionalData"), id="55 missing with all around it"),
        pytest.param(lambda item: item.update(additionalData={"hmacSignature": ""}), id="28 empty"),
        pytest.param(lambda item: item.update(additionalData={"hmacSignature": "é" * 44}), id="35 non-ASCII"),
        pytest.param(lambda item: item.update(additionalData={"hmacSignature": "\ud800" * 44}), id="35 not UTF-8"),
        pytest.param(lambda item: item.update(additionalData={"hmacSignature": ["x"]}), id="36 no text"),
        pytest.param(lambda item: item.update(additionalData=seal(PAID)["additionalData"]), id="31 of another item"),
        pytest.param(lambda item: item.update(merchantReference="43"), id="31 another reference"),
        pytest.param(lambda item: item.update(pspReference="PSP3"), id="31 another payment"),
        pytest.param(lambda item: item.update(success="false"), id="31 another outcome"),
        pytest.param(lambda item: item.update(eventCode="CAPTURE"), id="31 another event"),
        pytest.param(lambda item: item.update(amount={"value": 5001, "currency": "EUR"}), id="31 another amount"),
        pytest.param(lambda item: item.update(amount={"value": 5000, "currency": "JPY"}), id="31 another currency"),
        pytest.param(lambda item: item.update(amount={"value": "5000", "currency": "EUR"}), id="76 amount as text"),
        pytest.param(lambda item: item.update(amount={"value": 5000.0, "currency": "EUR"}), id="74 amount as float"),
        pytest.param(lambda item: item.update(success=True), id="no text"),
        pytest.param(lambda item: item.update(merchantReference={}), id="no text either"),
        pytest.param(lambda item: item.update(originalReference=0), id="neither text nor missing"),
    ],
)
async def test_every_item_is_signed_whole(mangle: Any) -> None:
    good = seal(LATER | {"eventCode": "REFUND"})
    item = seal(PAID | {"eventCode": "AUTHORISATION"})
    assert await authentic(batch(good, item))
    mangle(item)
    assert not await authentic(batch(item))
    assert not await authentic(batch(good, item))  # 54
    assert not await authentic(batch(item, good))


@pytest.mark.parametrize(
    ("signed", "sent"),
    [
        (
            {"merchantReference": "R:500"},
            {"merchantReference": "R", "amount": {"value": "500:5000", "currency": "EUR"}},
        ),
        ({"merchantReference": "a:42"}, {"merchantAccountCode": "Shop:a"}),
        ({"merchantAccountCode": "a", "merchantReference": "Shop:42"}, {"originalReference": ":a"}),
        ({"merchantReference": "42:7:EUR:CAPTURE"}, {"amount": {"value": 7, "currency": "EUR:CAPTURE:5000:EUR"}}),
    ],
)
async def test_what_is_signed_alike_is_not_taken_for_another(signed: dict[str, Any], sent: dict[str, Any]) -> None:
    item = PAID | {"eventCode": "CAPTURE"}
    signature = seal(item | signed)["additionalData"]
    assert await authentic(batch(item | signed | {"additionalData": signature}))
    assert not await authentic(batch(item | sent | {"additionalData": signature}))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'"x"', b"{}", b"[" * 100_000, b"\xff", batch(), {"notificationItems": {}}, batch(1)]
)
async def test_nothing_signed_is_nothing_authentic(body: object) -> None:
    assert not await authentic(body)


@pytest.mark.parametrize("key", ["not hexadecimal, but long enough", "0123456789ABCDE" * 3, "0123456789", "é" * 64])
def test_a_key_is_hex(key: str) -> None:
    with pytest.raises(ValidationError, match="hex"):
        example("adyen", webhook_secrets=[KEY, key])


@pytest.mark.parametrize(
    ("code", "item", "facts"),
    [
        ("AUTHORISATION", PAID, [POSTED]),
        (
            "AUTHORISATION",
            PAID | {"merchantReference": "I:7"},
            [("payment", 5000, "EUR", "PSP1", "I:7")],
        ),
        ("AUTHORISATION", PAID | {"merchantReference": ""}, [("payment", 5000, "EUR", "PSP1", "PSP1")]),
        ("AUTHORISATION", PAID | {"originalReference": "PSP0"}, [POSTED]),
        ("AUTHORISATION", PAID | {"success": "false"}, []),
        ("AUTHORISATION", PAID | {"success": True}, []),
        ("AUTHORISATION", PAID | {"amount": {"value": 0, "currency": "EUR"}}, []),  # 88
        ("AUTHORISATION", PAID | {"amount": {"value": -1, "currency": "EUR"}}, [("bad_amount",)]),  # 78
        ("AUTHORISATION", PAID | {"amount": {"value": 2**63, "currency": "EUR"}}, [("bad_amount",)]),  # 79
        ("AUTHORISATION", PAID | {"amount": {"value": 9.5, "currency": "EUR"}}, [("bad_amount",)]),  # 73
        ("AUTHORISATION", PAID | {"amount": {"value": 5, "currency": "XYZ"}}, [("unknown_currency",)]),  # 83
        ("AUTHORISATION", PAID | {"amount": None}, [("unknown_currency",)]),
        (
            "AUTHORISATION",
            PAID | {"amount": {"value": 500, "currency": "CLP"}},
            [("payment", 5, "CLP", "PSP1", 42)],
        ),
        ("AUTHORISATION", PAID | {"amount": {"value": 501, "currency": "CLP"}}, [("bad_amount",)]),
        (
            "AUTHORISATION",
            PAID | {"amount": {"value": 500, "currency": "ISK"}},
            [("payment", 5, "ISK", "PSP1", 42)],
        ),
        (
            "AUTHORISATION",
            PAID | {"amount": {"value": 5, "currency": "CVE"}},
            [("payment", 500, "CVE", "PSP1", 42)],
        ),
        (
            "AUTHORISATION",
            PAID | {"amount": {"value": 5, "currency": "IDR"}},
            [("payment", 500, "IDR", "PSP1", 42)],
        ),
        (
            "AUTHORISATION",
            PAID | {"amount": {"value": 5, "currency": "UGX"}},
            [("payment", 5, "UGX", "PSP1", 42)],
        ),
        (
            "AUTHORISATION",
            PAID | {"amount": {"value": 5, "currency": "KWD"}},
            [("payment", 5, "KWD", "PSP1", 42)],
        ),
        ("AUTHORISATION", PAID | {"pspReference": "P\0"}, [("unreadable",)]),  # 69
        ("AUTHORISATION", PAID | {"merchantReference": "\ud800"}, [("unreadable",)]),
        ("CAPTURE", LATER, [("manual_capture",)]),
        ("CAPTURE", LATER | {"success": "false"}, []),
        ("EXPIRE", LATER, [("manual_capture",)]),
        ("CAPTURE_FAILED", LATER, [("payment_reversal", 5000, "EUR", "PSP1", "PSP1")]),
        ("CAPTURE_FAILED", PAID, [("unreadable",)]),
        ("CANCELLATION", LATER, [("payment_reversal", 5000, "EUR", "PSP1", "PSP1")]),
        ("TECHNICAL_CANCEL", LATER, [("payment_reversal", 5000, "EUR", "PSP1", "PSP1")]),
        ("CANCEL_OR_REFUND", CANCEL, [("payment_reversal", 5000, "EUR", "PSP1", "PSP1")]),
        ("CANCEL_OR_REFUND", REFUND, [("refund", 5000, "EUR", "PSP2", "PSP1")]),
        ("CANCEL_OR_REFUND", LATER, [("unreadable",)]),
        ("REFUND", LATER, [("refund", 5000, "EUR", "PSP2", "PSP1")]),
        ("REFUND", LATER | {"success": "false"}, []),
        ("REFUND_FAILED", LATER, [("refund_reversal", 5000, "EUR", "PSP2", "PSP1")]),
        ("REFUNDED_REVERSED", LATER, [("refund_reversal", 5000, "EUR", "PSP2", "PSP1")]),
        ("REQUEST_FOR_INFORMATION", LATER, []),
        ("NOTIFICATION_OF_CHARGEBACK", LATER, []),
        ("CHARGEBACK", LATER, [("chargeback", 5000, "EUR", "PSP2/1", "PSP1")]),
        ("CHARGEBACK", PAID, [("chargeback", 5000, "EUR", "PSP1/1", "PSP1")]),
        ("CHARGEBACK_REVERSED", LATER, [("chargeback_reversal", 5000, "EUR", "PSP2/1", "PSP1")]),
        ("SECOND_CHARGEBACK", LATER, [("chargeback", 5000, "EUR", "PSP2/2", "PSP1")]),
        ("REPORT_AVAILABLE", PAID, []),
        ("SOMETHING_NEW", PAID, []),  # 106
    ],
)
async def test_an_event_is_what_it_means(code: str, item: dict[str, Any], facts: list[tuple[Any, ...]]) -> None:
    assert await what(code, item) == facts


@pytest.mark.parametrize(
    ("code", "item", "facts"),
    [
        ("AUTHORISATION", PAID, [("link", "PSP1", 42)]),
        ("AUTHORISATION", PAID | {"merchantReference": ""}, []),
        ("EXPIRE", LATER, []),
        ("CAPTURE", LATER, [("payment", 5000, "EUR", "PSP2", "PSP1")]),
        ("CAPTURE", LATER | {"success": "false"}, []),
        ("CAPTURE_FAILED", LATER, [("payment_reversal", 5000, "EUR", "PSP2", "PSP1")]),
        ("CANCELLATION", LATER, []),
        ("CANCEL_OR_REFUND", CANCEL, []),
        ("CANCEL_OR_REFUND", REFUND, [("refund", 5000, "EUR", "PSP2", "PSP1")]),
        ("REFUND", LATER, [("refund", 5000, "EUR", "PSP2", "PSP1")]),
        ("CHARGEBACK", LATER, [("chargeback", 5000, "EUR", "PSP2/1", "PSP1")]),
    ],
)
@pytest.mark.parametrize("methods", ["mc, visa", ["*"]])
async def test_a_capture_by_hand_is_the_payment(
    code: str, item: dict[str, Any], facts: list[tuple[Any, ...]], methods: object
) -> None:
    assert await what(code, item, manual_capture=methods) == facts


async def test_other_payment_methods_are_paid_when_authorised() -> None:
    ideal = PAID | {"paymentMethod": "ideal"}
    assert await what("AUTHORISATION", ideal, manual_capture="visa") == [POSTED]
    captured = await what("CAPTURE", ideal | LATER | {"paymentMethod": "ideal"}, manual_capture="visa")
    assert captured == [("manual_capture",)]
    unnamed = PAID | {"paymentMethod": None}
    assert await what("AUTHORISATION", unnamed, manual_capture="visa") == [("unreadable",)]
    assert await what("AUTHORISATION", unnamed, manual_capture="") == [POSTED]


async def test_a_sample_pays_where_captures_do() -> None:
    adapter = example("adyen", manual_capture="*", mode="test", account="Shop")
    body = adapter.sample("42", 5000, "EUR")
    assert await authentic(body, adapter)
    [event] = await facts(adapter, body)
    assert isinstance(event, PaymentEvent)
    assert (event.kind, event.invoice_id) == ("payment", 42)


async def test_an_event_id_is_made_from_what_is_signed() -> None:
    [event] = await facts(example("adyen"), batch(LATER | {"eventCode": "REFUND"}))
    assert isinstance(event, PaymentEvent)
    assert (event.event_id, event.parent_reference) == ("PSP2:REFUND:true", "PSP1")


async def test_a_test_event_or_anothers_is_no_live_money() -> None:
    assert await what("AUTHORISATION", PAID, live="false") == [("wrong_mode",)]  # 92
    assert await what("AUTHORISATION", PAID, live=None) == [("unreadable",)]
    assert await what("AUTHORISATION", PAID, live="false", mode="test", account="Shop") == [POSTED]
    assert await what("AUTHORISATION", PAID, account="Other") == [("wrong_account",)]


async def test_an_item_of_no_use_spoils_no_other() -> None:
    paid = PAID | {"eventCode": "AUTHORISATION"}
    broken = paid | {"amount": {"value": 5, "currency": "XYZ"}}
    found = await facts(example("adyen"), batch(paid, broken, paid))  # 99, 100
    assert in_short(found) == [POSTED, POSTED, ("unknown_currency",)]
    assert isinstance(found[2], DeadLetter)
    assert found[2].detail.startswith("/notificationItems/1/NotificationRequestItem: ")


@pytest.mark.parametrize("body", payloads("adyen"))
@pytest.mark.parametrize("mode", ["live", "test"])
async def test_real_payloads_give_facts_or_a_named_reason(body: bytes, mode: str) -> None:
    for fact in await facts(example("adyen", mode=mode), body):
        assert isinstance(fact, PaymentEvent | Link) or fact.reason in {"unreadable", "wrong_mode", "manual_capture"}

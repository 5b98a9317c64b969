"""The generic adapter: signatures of many shapes, places of many shapes, and settings that cannot be meant."""

import base64
import hmac
from typing import Any

import pytest
from multidict import CIMultiDict
from pydantic import ValidationError

from service import connections
from service.adapters.adapter import Delivery
from service.adapters.generic import Generic
from service.database import DeadLetter, PaymentEvent
from service.environment import SettingsError
from tests.providers import EXAMPLES, NOW, example, facts, in_short, signed, vectors

BODY = b'{"a": 1}'
KEY = "first secret"
STAMP = f"{NOW:.0f}"
DATA: dict[str, Any] = {"invoice": "42", "payment": "p1", "amount": 5000, "currency": "EUR"}


def mac(message: bytes, algorithm: str = "sha256", key: bytes = KEY.encode()) -> str:
    return hmac.new(key, message, algorithm).hexdigest()


async def authentic(headers: dict[str, str], body: bytes = BODY, **settings: Any) -> bool:
    return await example("generic", **settings).is_authentic(Delivery(CIMultiDict(headers), body, NOW))


async def what(kind: str, data: dict[str, Any], *, more: dict[str, Any] | None = None, **settings: Any) -> object:
    """The one fact of an event in short."""
    body = {"id": "e1", "type": kind, "data": data, "at": 1_790_000_000} | (more or {})
    for fact in await facts(example("generic", **settings), body):
        if isinstance(fact, PaymentEvent):
            assert fact.occurred_at is not None
            named = fact.invoice_id or fact.invoice_reference or fact.parent_reference
            return fact.event_id, fact.kind, fact.amount, fact.currency, fact.reference, named
        assert isinstance(fact, DeadLetter)
        return fact.reason
    return None


@pytest.mark.parametrize("vector", vectors("github"))
async def test_github_signs_so(vector: dict[str, Any]) -> None:
    settings = {"webhook_secrets": [vector["secret"]], "header": "X-Hub-Signature-256", "prefix": "sha256="}
    body = vector["body"].encode()
    assert await authentic(vector["headers"], body, **settings) == vector["valid"]
    assert not await authentic(vector["headers"], body + b" ", **settings)


@pytest.mark.parametrize(
    ("settings", "headers"),
    [
        ({}, {"X-Signature": mac(BODY)}),
        ({"algorithm": "sha1", "prefix": "sha1="}, {"X-Signature": "sha1=" + mac(BODY, "sha1")}),
        ({"algorithm": "sha512"}, {"X-Signature": mac(BODY, "sha512")}),
        (
            {"encoding": "base64"},
            {"X-Signature": base64.b64encode(hmac.digest(KEY.encode(), BODY, "sha256")).decode()},
        ),
        (
            {"webhook_secrets": ["00ff" * 8], "secret_encoding": "hex"},
            {"X-Signature": mac(BODY, key=bytes.fromhex("00ff" * 8))},
        ),
        (
            {"webhook_secrets": ["c2VjcmV0c2VjcmV0"], "secret_encoding": "base64"},
            {"X-Signature": mac(BODY, key=b"secretsecret")},
        ),
        (
            {"timestamp_header": "X-Time", "prefix": "v0=", "signed": "v0:{timestamp}:{body}"},
            {"X-Signature": "v0=" + mac(b"v0:" + STAMP.encode() + b":" + BODY), "X-Time": STAMP},
        ),
        (
            {"timestamp_prefix": "t=", "prefix": "v1=", "signed": "{timestamp}.{body}"},
            {"X-Signature": f"t={STAMP}, v0=00, v1=00, v1={mac(STAMP.encode() + b'.' + BODY)}"},
        ),
        (
            {"timestamp_prefix": "ts=", "prefix": "h1=", "separator": ";", "signed": "{timestamp}:{body}"},
            {"X-Signature": f"ts={STAMP};h1={mac(STAMP.encode() + b':' + BODY)}"},
        ),
        (
            {
                "id_header": "svix-id",
                "timestamp_header": "svix-timestamp",
                "header": "svix-signature",
                "separator": " ",
                "prefix": "v1,",
                "signed": "{id}.{timestamp}.{body}",
            },
            {
                "svix-id": "{body}",
                "svix-timestamp": STAMP,
                "svix-signature": "v1,00 v1," + mac(b"{body}." + STAMP.encode() + b"." + BODY),
            },
        ),
        ({"signed": "https://shop.example/hook{body}"}, {"X-Signature": mac(b"https://shop.example/hook" + BODY)}),
        ({"signed": "{body}|end"}, {"X-Signature": mac(BODY + b"|end")}),
    ],
)
async def test_a_signature_is_what_is_configured(settings: dict[str, Any], headers: dict[str, str]) -> None:
    adapter = example("generic", **settings)
    assert await authentic(headers, **settings)
    assert await adapter.is_authentic(signed(adapter, BODY))
    for changed in (BODY + b" ", b""):
        assert not await authentic(headers, changed, **settings)
        assert not await adapter.is_authentic(signed(adapter, BODY)._replace(body=changed))


@pytest.mark.parametrize(
    "place",
    [
        {"timestamp_header": "X-Time", "signed": "{timestamp}.{body}"},
        {"timestamp_prefix": "t=", "prefix": "v1=", "signed": "{timestamp}.{body}"},
    ],
)
async def test_a_timestamp_is_recent_and_only_one(place: dict[str, Any]) -> None:
    adapter = example("generic", **place)
    for at, valid in ((NOW - 300, True), (NOW + 300, True), (NOW - 301, False), (NOW + 3e8, False)):
        assert await adapter.is_authentic(signed(adapter, BODY, at)) == valid  # 43, 44
    for stamp in ("", "+1790000000", "1790000000.0", "1.79e9", "١٧٩", "1" * 400, "1790000000,t=1790000000"):
        headers = {
            name: value.replace("1790000000", stamp, 1) for name, value in adapter.sign(BODY, NOW).items()
        }  # 42, 45
        assert not await adapter.is_authentic(Delivery(CIMultiDict(headers), BODY, NOW))


async def test_a_signed_id_has_to_be_there() -> None:
    adapter = example("generic", id_header="X-Id", signed="{id}.{body}")
    delivery = signed(adapter, BODY)
    assert await adapter.is_authentic(delivery)
    for headers in ({"X-Id": "another"}, {"X-Id": ""}, {}):
        changed = CIMultiDict({"X-Signature": delivery.headers["X-Signature"]} | headers)
        assert not await adapter.is_authentic(delivery._replace(headers=changed))  # 46
    nameless = {"X-Signature": mac(b"." + BODY), "X-Id": ""}
    assert not await adapter.is_authentic(Delivery(CIMultiDict(nameless), BODY, NOW))


@pytest.mark.parametrize(
    ("kind", "data", "fact"),
    [
        ("paid", {}, ("e1", "payment", 5000, "EUR", "p1", 42)),
        ("paid", {"invoice": 42, "payment": 7}, ("e1", "payment", 5000, "EUR", "7", 42)),
        ("paid", {"invoice": "INV-7"}, ("e1", "payment", 5000, "EUR", "p1", "INV-7")),
        ("paid", {"invoice": None}, ("e1", "payment", 5000, "EUR", "p1", "p1")),
        ("refunded", {"invoice": "", "refund": "r1"}, ("e1", "refund", 5000, "EUR", "r1", "p1")),
        ("refunded", {"invoice": "", "refund": "r1", "payment": None}, "no_invoice"),
        ("refund_failed", {"invoice": "", "refund": "r1"}, ("e1", "refund_reversal", 5000, "EUR", "r1", "p1")),
        ("created", {}, None),  # 106
        ("paid", {"amount": 100.0}, "bad_amount"),
        ("paid", {"amount": "5000"}, "bad_amount"),
        ("paid", {"amount": True}, "bad_amount"),
        ("paid", {"amount": 0}, "bad_amount"),
        ("paid", {"amount": None}, "bad_amount"),
        ("paid", {"amount": 2**63}, "bad_amount"),
        ("paid", {"currency": "XYZ"}, "unknown_currency"),
        ("paid", {"currency": None}, "unknown_currency"),
        ("paid", {"payment": None}, "unreadable"),
        ("paid", {"payment": True}, "unreadable"),
        ("paid", {"payment": ["p1"]}, "unreadable"),
        ("paid", {"payment": "\0"}, "unreadable"),
        ("paid", {"payment": 10**4000}, "unreadable"),
    ],
)  # fmt: skip
async def test_an_event_is_what_is_configured(kind: str, data: dict[str, Any], fact: object) -> None:
    assert await what(kind, DATA | data) == fact


@pytest.mark.parametrize(
    ("settings", "data", "fact"),
    [
        ({"event_id": []}, {}, ("paid:p1", "payment", 5000, "EUR", "p1", 42)),
        ({"amount_unit": "decimal"}, {"amount": "50.00"}, ("e1", "payment", 5000, "EUR", "p1", 42)),
        ({"amount_unit": "decimal"}, {"amount": "10.005"}, "bad_amount"),  # 80
        ({"amount_unit": "decimal"}, {"amount": "10.50", "currency": "JPY"}, "bad_amount"),  # 81
        ({"amount_unit": "decimal"}, {"amount": 10.5}, "bad_amount"),
        ({"amount_unit": "number"}, {"amount": 50}, ("e1", "payment", 5000, "EUR", "p1", 42)),
        ({"amount_unit": "number"}, {"amount": 50.29}, ("e1", "payment", 5029, "EUR", "p1", 42)),
        ({"amount_unit": "number"}, {"amount": 50.5, "currency": "JPY"}, "bad_amount"),
        ({"amount_unit": "number"}, {"amount": 9.999}, "bad_amount"),
        ({"amount_unit": "number"}, {"amount": 1e40}, "bad_amount"),
        ({"amount_unit": "number"}, {"amount": 1e16}, "bad_amount"),
        ({"amount_unit": "number"}, {"amount": "50"}, "bad_amount"),
        ({"amount_unit": "number"}, {"amount": True}, "bad_amount"),
        ({"amount_unit": "minor_text"}, {"amount": "5000"}, ("e1", "payment", 5000, "EUR", "p1", 42)),
        ({"amount_unit": "minor_text"}, {"amount": "\uff11\uff12"}, "bad_amount"),  # 77
        ({"amount_unit": "minor_text"}, {"amount": 5000}, "bad_amount"),
        ({"currency": [], "currency_code": "JPY"}, {}, ("e1", "payment", 5000, "JPY", "p1", 42)),
        ({"exponents": {"UGX": 2}}, {"currency": "UGX"}, ("e1", "payment", 50, "UGX", "p1", 42)),
        ({"live": "/live"}, {}, ("e1", "payment", 5000, "EUR", "p1", 42)),
        ({"live": "/live", "mode": "test"}, {}, "wrong_mode"),  # 92
        ({"live": "/id"}, {}, "unreadable"),
        (
            {"event_type": ["/type", "/data/status"], "kinds": {"paid:done": "payment"}},
            {"status": "done"},
            ("e1", "payment", 5000, "EUR", "p1", 42),
        ),
        ({"event_type": ["/type", "/data/status"], "kinds": {"paid:done": "payment"}}, {"status": "pending"}, None),
        ({"event_type": ["/type", "/data/status"], "kinds": {"paid:done": "payment"}}, {}, None),
    ],
)
async def test_places_and_units_are_settings(settings: dict[str, Any], data: dict[str, Any], fact: object) -> None:
    assert await what("paid", DATA | data, more={"live": True}, **settings) == fact


async def test_a_body_may_hold_several_events() -> None:
    events = [{"id": f"e{n}", "type": "paid", "data": DATA | {"payment": f"p{n}"}} for n in (1, 2)]
    found = await facts(example("generic", events="/batch"), {"batch": [events[0], "junk", events[1]]})
    assert in_short(found) == [
        ("payment", 5000, "EUR", "p1", 42), ("payment", 5000, "EUR", "p2", 42), ("unreadable",),
    ]  # fmt: skip


async def test_of_a_batch_of_no_use_the_body_is_kept_once() -> None:
    [letter] = await facts(example("generic", events="/batch"), {"batch": [{"type": "paid"}] * 250})
    assert isinstance(letter, DeadLetter)
    assert letter.detail.startswith("/batch/0: ")
    assert letter.detail.endswith("; and 245 more")


@pytest.mark.parametrize(
    "settings",
    [
        {"amount_unit": "decimal", "amount": ["/x/0/value", "/data/amount"]},
        {"amount_unit": "minor_text", "currency": [], "currency_code": "EUR"},
        {"amount_unit": "number", "events": "/batch/events"},
        {"event_type": ["/type", "/data/a~1b"], "kinds": {"paid:done": "payment"}, "live": "/live", "mode": "test"},
    ],
)
async def test_a_sample_is_of_the_configured_shape(settings: dict[str, Any]) -> None:
    adapter = example("generic", **settings)
    [event] = await adapter.facts(signed(adapter, adapter.sample("42", 5000, "EUR")))
    assert isinstance(event, PaymentEvent)
    assert (event.kind, event.invoice_id, event.amount, event.currency) == ("payment", 42, 5000, "EUR")


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("header", {"header": "X Signature"}),
        ("algorithm", {"algorithm": "md5"}),
        ("encoding", {"encoding": "base32"}),
        ("secret_encoding", {"secret_encoding": "hex"}),
        ("secret_encoding", {"secret_encoding": "base64", "webhook_secrets": ["c2hvcnQ="]}),  # 47
        ("secret_encoding", {"secret_encoding": "base64", "webhook_secrets": ["é" * 16]}),
        ("prefix", {"prefix": "v1,"}),
        ("timestamp_prefix", {"timestamp_prefix": "t=", "timestamp_header": "X-Time"}),
        ("signed", {"timestamp_prefix": "t="}),
        ("signed", {"signed": "{timestamp}.{body}"}),
        ("signed", {"signed": "body"}),
        ("signed", {"signed": "{id}.{body}"}),
        ("signed", {"id_header": "X-Id"}),
        ("signed", {"id_header": "X-Id", "signed": "{body}.{id}"}),
        ("signed", {"signed": "{body}{body}"}),
        ("tolerance", {"tolerance": 0}),
        ("event_type", {"event_type": []}),
        ("reference", {"reference": ["data"]}),
        ("kinds", {"kinds": {"paid": "gift"}}),
        ("kinds", {"kinds": {"refunded": "refund"}}),
        ("kinds", {"kinds": "payment"}),
        ("currency_code", {"currency": []}),
        ("currency_code", {"currency_code": "EUR"}),
        ("kinds", {"kinds": "a:b"}),
        ("exponents", {"exponents": {"UGX": "many"}}),
        ("exponents", {"exponents": {"ugx": 2}}),
        ("exponents", {"exponents": {"UGX": 2}, "amount_unit": "decimal"}),
        ("account", {"account": "a"}),
        ("live", {"mode": "test"}),
        ("hedaer", {"hedaer": "X"}),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_by_name(key: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        example("generic", **settings)
    assert error.value.errors()[0]["loc"][0] == key


def test_variables_configure_it_too() -> None:
    settings = EXAMPLES["generic"] | {"kinds": "paid=payment, refunded=refund", "exponents": "UGX=2"}
    listed = {name: ",".join(value) if isinstance(value, list) else value for name, value in settings.items()}
    [adapter] = connections.load({f"GENERIC_{name.upper()}": value for name, value in listed.items()})
    assert isinstance(adapter, Generic)
    assert (adapter.kinds, adapter.exponents) == ({"paid": "payment", "refunded": "refund"}, {"UGX": 2})
    assert adapter.reference == ("/data/refund", "/data/payment")
    with pytest.raises(SettingsError, match="GENERIC_EVENT_TYPE"):
        connections.load({"GENERIC_WEBHOOK_SECRETS": "first secret"})

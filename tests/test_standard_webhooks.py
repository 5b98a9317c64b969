"""Standard Webhooks: both signature schemes, and our own JSON."""

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from multidict import CIMultiDict
from pydantic import ValidationError

from service.adapters import standard_webhooks
from service.adapters.adapter import CannotSignError, Delivery
from service.adapters.signatures import decoded
from service.database import PaymentEvent
from tests.providers import NOW, example, facts, signed, vectors

NAME = "standard_webhooks"
PAYMENT = {"event_id": "e1", "invoice_id": 42, "amount": 5000, "currency": "EUR", "reference": "r1"}
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = "whpk_" + base64.b64encode(PRIVATE.public_key().public_bytes_raw()).decode()
SYMMETRIC = f"whsec_{'c2VjcmV0' * 4}"


def v1a(message: bytes, private: Ed25519PrivateKey = PRIVATE) -> str:
    return "v1a," + base64.b64encode(private.sign(message)).decode()


def delivery(signature: str, body: bytes = b"{}", message_id: str = "msg_1", at: str = f"{NOW:.0f}") -> Delivery:
    headers = {"webhook-id": message_id, "webhook-timestamp": at, "webhook-signature": signature}
    return Delivery(CIMultiDict(headers), body, NOW)


MESSAGE = f"msg_1.{NOW:.0f}.{{}}".encode()


@pytest.mark.parametrize("vector", vectors("standardwebhooks"))
async def test_the_vectors_of_others_agree(vector: dict[str, Any]) -> None:
    if vector.get("config_error"):
        with pytest.raises(ValidationError):
            example(NAME, webhook_secrets=[vector["secret"]])
        return
    given = Delivery(CIMultiDict(vector["headers"]), vector["body"].encode(), vector["now"])
    assert await example(NAME, webhook_secrets=[vector["secret"]]).is_authentic(given) == vector["valid"]
    key = decoded(vector["secret"].removeprefix("whsec_"))
    assert standard_webhooks.is_authentic([key], given) == vector["valid"]


@pytest.mark.parametrize(
    ("secrets", "given", "valid"),
    [
        ([PUBLIC], delivery(v1a(MESSAGE)), True),
        ([SYMMETRIC, PUBLIC], delivery(v1a(MESSAGE)), True),
        ([PUBLIC], delivery(f"v1,AAAA {v1a(MESSAGE)}"), True),
        ([SYMMETRIC], delivery(v1a(MESSAGE)), False),  # 41
        ([PUBLIC], delivery(v1a(MESSAGE).replace("v1a,", "v1,")), False),  # 40
        ([PUBLIC], delivery(v1a(MESSAGE), message_id="msg_2"), False),  # 46
        ([PUBLIC], delivery(v1a(MESSAGE), body=b"{} "), False),
        ([PUBLIC], delivery(v1a(b"msg_1.1.{}"), at="1"), False),  # 43
        ([PUBLIC], delivery(v1a(MESSAGE, Ed25519PrivateKey.from_private_bytes(b"x" * 32))), False),  # 30
        ([PUBLIC], delivery(v1a(MESSAGE)[:-4]), False),
        ([PUBLIC], delivery("v1a,"), False),
        ([PUBLIC], delivery("v1a,é!"), False),
        ([PUBLIC], delivery(" ".join([v1a(MESSAGE)] * 10_000)), False),  # 39
        (["whpk_" + "A" * 43 + "="], delivery("v1a," + "A" * 86 + "=="), False),
    ],
)  # fmt: skip
async def test_v1a_needs_the_senders_public_key(secrets: list[str], given: Delivery, *, valid: bool) -> None:
    assert await example(NAME, webhook_secrets=secrets).is_authentic(given) == valid


async def test_a_public_key_is_no_hmac_key_and_signs_nothing() -> None:
    signature = standard_webhooks.SCHEME.signature(PRIVATE.public_key().public_bytes_raw(), MESSAGE)
    adapter = example(NAME, webhook_secrets=[PUBLIC])
    assert not await adapter.is_authentic(delivery(signature))
    with pytest.raises(CannotSignError):
        adapter.sign(b"{}", NOW)


@pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp", "webhook-signature"])
async def test_each_header_is_needed_once(header: str) -> None:
    adapter = example(NAME)
    headers = signed(adapter, b"{}").headers
    without = CIMultiDict((name, value) for name, value in headers.items() if name != header)
    for changed in (without, CIMultiDict([*headers.items(), (header, headers[header])])):
        assert not await adapter.is_authentic(Delivery(changed, b"{}", NOW))


@pytest.mark.parametrize(
    "secret", ["whsec_c2hvcnQ=", "whsec_" + "A" * 200, "whpk_" + "A" * 32, "whsec_not base64, not at all", "é" * 40]
)
def test_a_secret_that_is_no_key_is_refused(secret: str) -> None:
    with pytest.raises(ValidationError, match="whsec_"):
        example(NAME, webhook_secrets=[secret])


@pytest.mark.parametrize("setting", [{"mode": "test"}, {"account": "a"}, {"invoice": ["/id"]}, {"invoice_is": "id"}])
def test_a_setting_that_would_do_nothing_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="remove it"):
        example(NAME, **setting)


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ({}, ("payment", 5000, "EUR", "r1", 42)),
        ({"kind": "refund", "amount": 500}, ("refund", 500, "EUR", "r1", 42)),
        ({"kind": "chargeback_reversal"}, ("chargeback_reversal", 5000, "EUR", "r1", 42)),
        ({"kind": "refund_reversal", "reference": None}, "unreadable"),
        ({"kind": "gift"}, "unreadable"),
        ({"event_id": ""}, "unreadable"),
        ({"event_id": "\0"}, "unreadable"),  # 69
        ({"event_id": "\ud800"}, "unreadable"),
        ({"invoice_id": "42"}, "no_invoice"),
        ({"amount": 100.0}, "bad_amount"),  # 74
        ({"amount": True}, "bad_amount"),  # 75
        ({"amount": "5000"}, "bad_amount"),  # 76
        ({"amount": 0}, "bad_amount"),  # 78
        ({"amount": 2**63}, "bad_amount"),  # 79
        ({"currency": "eur"}, "unknown_currency"),
        ({"extra": 1}, ("payment", 5000, "EUR", "r1", 42)),  # 72
    ],
)
async def test_our_own_json(fields: dict[str, Any], fact: object) -> None:
    [got] = await facts(example(NAME), PAYMENT | fields)
    if isinstance(got, PaymentEvent):
        assert (got.kind, got.amount, got.currency, got.reference, got.invoice_id) == fact
        assert (got.event_id, got.connection) == ("e1", NAME)
    else:
        assert getattr(got, "reason", None) == fact

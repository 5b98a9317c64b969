"""A second opinion: the providers' own libraries take what we sign, and we take what they sign."""

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import gocardless_pro.errors  # type: ignore[import-untyped]
import gocardless_pro.webhooks  # type: ignore[import-untyped]
import pytest
import razorpay  # type: ignore[import-untyped]
import standardwebhooks
import stripe
from Adyen import util as adyen  # type: ignore[import-untyped]
from multidict import CIMultiDict

from service.adapters.adapter import Delivery
from tests.providers import EXAMPLES, example

Headers = Mapping[str, str]
ODD = '{"amount": 5000, "note": "é \u202e💶"}\n'.encode()


def stripe_signs(body: bytes, secret: str) -> Headers:
    return {"Stripe-Signature": stripe.WebhookSignature.generate_signature_header(body.decode(), secret)}


def standard_webhooks_signs(body: bytes, secret: str) -> Headers:
    now = datetime.now(UTC)
    signature = standardwebhooks.Webhook(secret).sign("msg_1", now, body.decode())
    return {"webhook-id": "msg_1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}


def stripe_verifies(body: bytes, headers: Headers, secret: str) -> None:
    stripe.WebhookSignature.verify_header(body, headers["Stripe-Signature"], secret, 300)


def standard_webhooks_verifies(body: bytes, headers: Headers, secret: str) -> None:
    standardwebhooks.Webhook(secret).verify(body, dict(headers), json_parse=False)


def razorpay_verifies(body: bytes, headers: Headers, secret: str) -> None:
    utility = razorpay.Client(auth=("key", "secret")).utility
    utility.verify_webhook_signature(body.decode(), headers["X-Razorpay-Signature"], secret)


def gocardless_verifies(body: bytes, headers: Headers, secret: str) -> None:
    gocardless_pro.webhooks._verify_signature(body, secret, headers["Webhook-Signature"])


SIGNS: dict[str, Callable[[bytes, str], Headers]] = {
    "standard_webhooks": standard_webhooks_signs,
    "stripe": stripe_signs,
}
VERIFIES: dict[str, tuple[Callable[[bytes, Headers, str], None], type[Exception]]] = {
    "gocardless": (gocardless_verifies, gocardless_pro.errors.InvalidSignatureError),
    "razorpay": (razorpay_verifies, razorpay.errors.SignatureVerificationError),
    "standard_webhooks": (standard_webhooks_verifies, standardwebhooks.WebhookVerificationError),
    "stripe": (stripe_verifies, stripe.SignatureVerificationError),
}


def tampered(body: bytes) -> bytes:
    return body.replace(b"5000", b"5001") if b"5000" in body else body + b" "


async def authentic(name: str, headers: Headers, body: bytes) -> bool:
    return await example(name).is_authentic(Delivery(CIMultiDict(headers), body, time.time()))


@pytest.mark.parametrize("name", SIGNS)
@pytest.mark.parametrize("position", [0, 1])
async def test_we_take_what_the_library_signs(name: str, position: int) -> None:
    secret = EXAMPLES[name]["webhook_secrets"][position]
    for body in (example(name).sample("42", 5000, "EUR"), ODD):
        headers = SIGNS[name](body, secret)
        assert await authentic(name, headers, body)
        assert not await authentic(name, headers, tampered(body))


@pytest.mark.parametrize("name", VERIFIES)
async def test_the_library_takes_what_we_sign(name: str) -> None:
    verify, refusal = VERIFIES[name]
    secret, other = EXAMPLES[name]["webhook_secrets"]
    for body in (example(name).sample("42", 5000, "EUR"), ODD):
        headers = example(name).sign(body, time.time())
        verify(body, headers, secret)
        for changed, key in ((tampered(body), secret), (body, other)):
            with pytest.raises(refusal):
                verify(changed, headers, key)
        assert not await authentic(name, headers, tampered(body))


@pytest.mark.parametrize("reference", ["42", "INV-é💶:7"])
@pytest.mark.parametrize("original", [None, "ORIGINAL1"])
async def test_adyens_library_signs_and_verifies_as_we_do(reference: str, original: str | None) -> None:
    key, other = EXAMPLES["adyen"]["webhook_secrets"]
    ours = example("adyen", account="OurAccount").sample(reference, 5000, "EUR")
    sent: dict[str, Any] = json.loads(ours)
    item = sent["notificationItems"][0]["NotificationRequestItem"]
    del item["additionalData"]
    item |= {"originalReference": original} if original else {}
    item["additionalData"] = {"hmacSignature": adyen.generate_notification_sig(item, key).decode()}
    theirs = json.dumps(sent).encode()
    for body in (ours, theirs):
        assert await authentic("adyen", {}, body)
        assert not await authentic("adyen", {}, tampered(body))
        assert adyen.is_valid_hmac_notification(json.loads(body), key)
        assert not adyen.is_valid_hmac_notification(json.loads(tampered(body)), key)
        assert not adyen.is_valid_hmac_notification(json.loads(body), other)

"""Connections to try adapters with, and deliveries for them."""

import json
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from service.adapters.adapter import Adapter, Delivery, Fact
from service.adapters.paypal import PayPal
from service.connections import adapter as adapter_class
from service.database import DeadLetter, Link, PaymentEvent
from tests import paypal_key

NOW = 1_790_000_000.0
EXAMPLES: dict[str, dict[str, Any]] = {
    "adyen": {"webhook_secrets": ["0123456789ABCDEF" * 4, "FEDCBA9876543210" * 4]},
    "braintree": {"webhook_secrets": ["first secret", "second secret"], "public_key": "public"},
    "checkout": {"webhook_secrets": ["first_signature_key", "second_signature_key"]},
    "coinbase": {"webhook_secrets": ["first secret", "second secret"]},
    "generic": {
        "webhook_secrets": ["first secret", "second secret"],
        "header": "X-Signature",
        "event_type": ["/type"],
        "kinds": {"paid": "payment", "refunded": "refund", "refund_failed": "refund_reversal"},
        "invoice": ["/data/invoice"],
        "event_id": ["/id"],
        "reference": ["/data/refund", "/data/payment"],
        "parent": ["/data/payment"],
        "amount": ["/data/amount"],
        "currency": ["/data/currency"],
        "time": "/at",
    },
    "gocardless": {
        "webhook_secrets": ["gocardless secret one", "gocardless secret two"],
        "access_token": "live_token",
        "api_url": "http://127.0.0.1:9",
    },
    "lemonsqueezy": {"webhook_secrets": ["lemon first secret", "lemon second secret"]},
    "mollie": {
        "webhook_secrets": ["mollie secret one", "mollie secret two"],
        "api_key": "live_key_of_ours",
        "api_url": "http://127.0.0.1:9",
    },
    "paddle": {"webhook_secrets": ["pdl_ntfset_first_secret", "pdl_ntfset_second_secret"]},
    "paypal": {"webhook_secrets": ["WH-FIRST-ID", "WH-SECOND-ID"], "accept_forgeable_signatures": True},
    "paystack": {"webhook_secrets": ["sk_live_first_secret", "sk_live_second_secret"]},
    "razorpay": {"webhook_secrets": ["razorpay first secret", "razorpay second secret"]},
    "shopify": {"webhook_secrets": ["first secret", "second secret"]},
    "square": {
        "webhook_secrets": ["first_signature_key", "second_signature_key"],
        "notification_url": "https://pay.example.com/webhooks/square",
    },
    "standard_webhooks": {"webhook_secrets": [f"whsec_{'c2VjcmV0' * 4}", f"whsec_{'b3RoZXIh' * 4}"]},
    "stripe": {"webhook_secrets": ["whsec_first_secret", "whsec_second_secret"]},
}
"""Settings for each adapter whose signatures a test can make: two secrets, as while one replaces the other."""
FETCHED = ("gocardless", "mollie")
"""Adapters whose webhooks say nothing of money until the provider's API is asked."""
FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"


def example(name: str, **settings: Any) -> Adapter:
    """A connection of the adapter, named as it is."""
    adapter = adapter_class(name).model_validate({"connection": name} | EXAMPLES[name] | settings)
    if isinstance(adapter, PayPal):
        paypal_key.trust(adapter)
    return adapter


def signed(adapter: Adapter, body: bytes, at: float = NOW) -> Delivery:
    """The body as the provider would send it."""
    headers = paypal_key.sign(adapter, body, at) if isinstance(adapter, PayPal) else adapter.sign(body, at)
    return Delivery(CIMultiDict(headers), body, NOW)


async def facts(adapter: Adapter, body: bytes | dict[str, Any]) -> list[Fact]:
    """What an authentic body reports."""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    return await adapter.facts(Delivery(CIMultiDict(), body, NOW))


def in_short(facts: list[Fact]) -> list[tuple[Any, ...]]:
    """The facts, to compare with: what they do, and to what."""
    short: list[tuple[Any, ...]] = []
    for fact in facts:
        match fact:
            case PaymentEvent():
                named = fact.invoice_id or fact.invoice_reference or fact.parent_reference
                short.append((fact.kind, fact.amount, fact.currency, fact.reference, named))
            case Link():
                short.append(("link", fact.reference, fact.invoice_id or fact.invoice_reference))
            case DeadLetter():
                short.append((fact.reason,))
    return short


def vectors(provider: str) -> list[Any]:
    """Signature vectors that lie beside the checkout, if they do."""
    file = FIXTURES / provider / "vectors.json"
    found = json.loads(file.read_text()) if file.exists() else []
    return [pytest.param(vector, id=vector["id"]) for vector in found]


def payloads(provider: str) -> list[Any]:
    """Bodies of real webhooks that lie beside the checkout, if they do."""
    files = sorted((FIXTURES / provider).rglob("*.json"))
    return [pytest.param(file.read_bytes(), id=file.stem) for file in files if file.name != "vectors.json"]

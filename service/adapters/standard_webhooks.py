"""Standard Webhooks 1.0.0 (https://www.standardwebhooks.com): our own endpoints' signatures, and a connection.

The connection is for a gateway or a system of yours that signs our own JSON, as in service/adapters/direct.py.
"""

from collections.abc import Iterable, Mapping, Sequence

from pydantic import field_validator

from service.adapters import direct
from service.adapters.adapter import Adapter, CannotSignError, Delivery, Pointers, as_json
from service.adapters.payload import Payload, UnusableError
from service.adapters.signatures import MAX_SIGNATURES, decoded, is_any_of, is_ed25519, is_recent, mac
from service.database import PaymentEvent
from service.problems import Problem

TOLERANCE = 300
"""Seconds that a timestamp may be off, either way."""
SECRET_BYTES = (24, 64)
"""Bounds of a `whsec_` key's length in bytes (Standard Webhooks 1.0.0, "Signature scheme")."""
PUBLIC_KEY_BYTES = (32, 32)
REASONS = {"#/invoice_id": "no_invoice", "#/amount": "bad_amount", "#/currency": "unknown_currency"}


class StandardWebhooks(Adapter):
    """`webhook_secrets` are the sender's secrets (whsec_…, scheme v1) or public keys (whpk_…, scheme v1a)."""

    invoice: Pointers = ("/invoice_id",)

    @field_validator("webhook_secrets")
    @classmethod
    def _are_keys(cls, secrets: tuple[str, ...]) -> tuple[str, ...]:
        for secret in secrets:
            least, most = PUBLIC_KEY_BYTES if _is_public(secret) else SECRET_BYTES
            if not least <= len(_key(secret)) <= most:
                raise ValueError(
                    "expected whsec_ and the base64 of 24 to 64 bytes, or whpk_ and the base64 of an ed25519 public key"
                )
        return secrets

    @field_validator("mode", "account", "invoice", "invoice_is")
    @classmethod
    def _is_not_ours(cls, _: object) -> object:
        raise ValueError("our own JSON has no such thing; remove it")

    async def is_authentic(self, delivery: Delivery) -> bool:
        return is_authentic(
            [_key(secret) for secret in self.webhook_secrets if not _is_public(secret)],
            delivery,
            [_key(secret) for secret in self.webhook_secrets if _is_public(secret)],
        )

    def sign(self, body: bytes, now: float) -> Mapping[str, str]:
        if _is_public(self.webhook_secrets[0]):
            raise CannotSignError
        name, timestamp = f"msg_{now:.0f}", f"{now:.0f}"
        signature = sign(_key(self.webhook_secrets[0]), name, timestamp, body)
        return {"webhook-id": name, "webhook-timestamp": timestamp, "webhook-signature": signature}

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        return as_json({
            "event_id": f"sample_{invoice}", "invoice_id": int(invoice), "amount": amount, "currency": currency,
        })  # fmt: skip

    def items(self, body: bytes) -> Iterable[Payload]:
        return [Payload(body)]

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        try:
            event = direct.translate(item.value)
        except Problem as problem:
            wrong = "; ".join(f"{error.pointer}: {error.detail}" for error in problem.errors)
            reason = REASONS.get(problem.errors[0].pointer, "unreadable") if problem.errors else "unreadable"
            raise UnusableError(reason, wrong or problem.detail) from None
        yield event._replace(kind=event.kind or "payment")


def sign(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """The `webhook-signature` of a message: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`."""
    return "v1," + mac(key, _message(message_id, timestamp, body), encoding="base64")


def is_authentic(keys: Sequence[bytes], delivery: Delivery, public_keys: Sequence[bytes] = ()) -> bool:
    """Whether one of `keys` (a rotation has two) signed these very bytes as v1, or one of `public_keys` as v1a.

    Any doubt is no. A signature counts only for a key of its own scheme.
    """
    message_id, timestamp, signatures = (
        delivery.header(f"webhook-{part}") for part in ("id", "timestamp", "signature")
    )
    given = signatures.split(" ")
    if not message_id or not is_recent(timestamp, delivery.received_at, TOLERANCE) or len(given) > MAX_SIGNATURES:
        return False
    message = _message(message_id, timestamp, delivery.body)
    return is_any_of(given, (sign(key, message_id, timestamp, delivery.body) for key in keys)) or any(
        is_ed25519(key, decoded(one.removeprefix("v1a,")), message)
        for key in public_keys
        for one in given
        if one.startswith("v1a,")
    )


def _message(message_id: str, timestamp: str, body: bytes) -> bytes:
    return f"{message_id}.{timestamp}.".encode("utf-8", "surrogateescape") + body


def _is_public(secret: str) -> bool:
    return secret.startswith("whpk_")


def _key(secret: str) -> bytes:
    return decoded(secret.removeprefix("whpk_" if _is_public(secret) else "whsec_"))

"""Standard Webhooks 1.0.0 (https://www.standardwebhooks.com): our own endpoints' signatures, and a connection.

The connection is for a gateway or a system of yours that signs our own JSON, as in service/adapters/direct.py.
"""

from collections.abc import Iterable, Mapping, Sequence

from pydantic import field_validator

from service.adapters import direct
from service.adapters.adapter import Adapter, CannotSignError, Delivery, Pointers, as_json
from service.adapters.payload import Payload, UnusableError
from service.adapters.signatures import HmacScheme, decoded, is_any_of, is_ed25519
from service.database import PaymentEvent
from service.problems import Problem

SCHEME = HmacScheme(
    "webhook-signature", encoding="base64", prefix="v1,", separator=" ", signed="{id}.{timestamp}.{body}",
    id_header="webhook-id", timestamp_header="webhook-timestamp",
)  # fmt: skip
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
        return SCHEME.headers(_key(self.webhook_secrets[0]), body, now, f"msg_{now:.0f}")

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


def is_authentic(keys: Sequence[bytes], delivery: Delivery, public_keys: Sequence[bytes] = ()) -> bool:
    """Whether one of `keys` (a rotation has two) signed these very bytes as v1, or one of `public_keys` as v1a.

    Any doubt is no. A signature counts only for a key of its own scheme.
    """
    offered, message = SCHEME.offered(delivery)
    v1a = [decoded(signature.removeprefix("v1a,")) for signature in offered if signature.startswith("v1a,")]
    return is_any_of(offered, (SCHEME.signature(key, message) for key in keys)) or any(
        is_ed25519(key, signature, message) for key in public_keys for signature in v1a
    )


def _is_public(secret: str) -> bool:
    return secret.startswith("whpk_")


def _key(secret: str) -> bytes:
    return decoded(secret.removeprefix("whpk_" if _is_public(secret) else "whsec_"))

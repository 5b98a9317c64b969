"""Braintree's forms, signed within, and its challenge: https://developer.paypal.com/braintree/docs/guides/webhooks/parse."""

import base64
import hashlib
import re
from typing import ClassVar
from urllib.parse import parse_qs, urlencode

from multidict import MultiMapping
from pydantic import Field

from service.adapters.adapter import Adapter, Delivery
from service.adapters.signatures import is_any_of, mac

_CHALLENGE = re.compile(r"[a-f0-9]{20,32}", re.ASCII)


class SignedForms(Adapter):
    """`webhook_secrets` are private keys of the API, and `public_key` is the first one's public key."""

    methods: ClassVar = ("GET", "POST")

    public_key: str = Field(min_length=1, max_length=255)

    async def is_authentic(self, delivery: Delivery) -> bool:
        signatures, payload = form(delivery.body)
        given = [pair.rpartition("|")[2] for pair in signatures.split("&")]
        messages = (payload, payload + "\n")  # as Braintree's own libraries do: some remove the last newline
        return bool(payload) and is_any_of(
            given, (_mac(key, message) for key in self.webhook_secrets for message in messages)
        )

    def signed(self, xml: str) -> bytes:
        """The form that makes a notification authentic."""
        payload = base64.encodebytes(xml.encode()).decode()
        return urlencode({"bt_signature": self._signature(payload), "bt_payload": payload}).encode()

    def challenge(self, query: MultiMapping[str]) -> str | None:
        """The proof that we have the key. Nothing but a challenge is signed: the same key signs notifications."""
        given = query.getall("bt_challenge", [])
        return self._signature(given[0]) if len(given) == 1 and _CHALLENGE.fullmatch(given[0]) else None

    def _signature(self, message: str) -> str:
        return f"{self.public_key}|{_mac(self.webhook_secrets[0], message)}"


def form(body: bytes) -> tuple[str, str]:
    """The form's bt_signature and bt_payload; empty where there is not one of each."""
    try:
        fields = parse_qs(body.decode("ascii"), strict_parsing=True, errors="strict", max_num_fields=8)
        [signature], [payload] = fields["bt_signature"], fields["bt_payload"]
    except (ValueError, KeyError):
        return "", ""
    return signature, payload


def _mac(private_key: str, message: str) -> str:
    return mac(hashlib.sha1(private_key.encode(), usedforsecurity=False).digest(), message.encode(), "sha1")

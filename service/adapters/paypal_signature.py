"""PayPal's signature of a transmission: https://developer.paypal.com/api/rest/webhooks/rest/."""

import re
import zlib
from functools import cached_property
from typing import NoReturn

from service.adapters.adapter import CannotSignError, Delivery
from service.adapters.api import FetchingAdapter
from service.adapters.payload import Payload
from service.adapters.paypal_certificates import Certificates
from service.adapters.signatures import decoded

MAX_AGE = 4 * 86400
"""Seconds since a transmission: PayPal tries for three days."""
MAX_AHEAD = 300
"""Seconds that our clock may be behind."""
_HEADERS = ("TRANSMISSION-ID", "TRANSMISSION-TIME", "TRANSMISSION-SIG", "CERT-URL", "AUTH-ALGO")
_ID = re.compile(r"[A-Za-z0-9-]{1,100}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)


class SignedByPayPal(FetchingAdapter):
    """`webhook_secrets` are the webhook's id: it is signed along, and PayPal's key makes the signature."""

    @cached_property
    def certificates(self) -> Certificates:
        """Where the keys are that sign."""
        return Certificates(live=self.mode == "live")

    async def close(self) -> None:
        await super().close()
        await self.certificates.close()

    async def is_authentic(self, delivery: Delivery) -> bool:
        """Whether PayPal sent a body with this CRC-32, recently, to one of these webhooks."""
        name, sent, signature, url, algorithm = (delivery.header(f"PAYPAL-{part}") for part in _HEADERS)
        at = Payload(sent).time("") if _TIME.fullmatch(sent) else None
        if algorithm != "SHA256withRSA" or not _ID.fullmatch(name) or at is None:
            return False
        if not -MAX_AHEAD <= delivery.received_at - at.timestamp() <= MAX_AGE:
            return False
        certificate = await self.certificates.at(url)
        messages = [f"{name}|{sent}|{key}|{zlib.crc32(delivery.body)}" for key in self.webhook_secrets]
        return certificate is not None and any(
            certificate.verifies(decoded(signature), message, delivery.received_at) for message in messages
        )

    def sign(self, body: bytes, now: float) -> NoReturn:  # noqa: ARG002 - the base's parameters
        raise CannotSignError

"""PayPal: https://developer.paypal.com/api/rest/webhooks/rest/ and https://developer.paypal.com/docs/api/payments/v2/.

PayPal signs no more of a body than its CRC-32, and whoever has seen one webhook can make another with the same. So the
event that a webhook names is fetched from the API, and that is what counts.
"""

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, NoReturn

import structlog
from pydantic import Field, ValidationInfo, field_validator

from service.adapters import money
from service.adapters.adapter import CannotSignError, Delivery, FetchError, Pointers, Secret, as_json
from service.adapters.api import ApiUrl, FetchingAdapter, OAuthApi
from service.adapters.payload import Payload, UnusableError
from service.adapters.paypal_certificates import Certificates
from service.adapters.paypal_signature import is_authentic
from service.database import PaymentEvent

KINDS = {
    "PAYMENT.CAPTURE.COMPLETED": "payment",
    "PAYMENT.CAPTURE.REFUNDED": "refund",
    "PAYMENT.CAPTURE.REVERSED": "chargeback",
    "PAYMENT.SALE.COMPLETED": "payment",
    "PAYMENT.SALE.REFUNDED": "refund",
    "PAYMENT.SALE.REVERSED": "chargeback",
}
"""What an event is. Disputes are information: a lost one reverses the capture."""
_PARENT = re.compile(r".*/(?:captures?|sale)/([A-Za-z0-9-]{1,100})", re.ASCII)
_log = structlog.get_logger()


class PayPal(FetchingAdapter):
    """`webhook_secrets` are the webhook's id: it is signed along, and PayPal's key makes the signature.

    `client_id` and `client_secret` are the REST app's. Without them webhooks are taken at their word, which has to be
    accepted by `accept_forgeable_signatures = true`.
    """

    client_id: Secret | None = None
    client_secret: Annotated[Secret | None, Field(repr=False)] = None
    accept_forgeable_signatures: Annotated[bool, Field(validate_default=True)] = False
    api_url: ApiUrl | None = None
    """The API of the connection's mode, if not set."""
    invoice: Pointers = tuple(f"/resource/{name}" for name in ("invoice_id", "custom_id", "invoice_number", "custom"))

    @field_validator("accept_forgeable_signatures")
    @classmethod
    def _either(cls, accepted: bool, info: ValidationInfo) -> bool:
        given = [info.data.get(name) for name in ("client_id", "client_secret")]
        if (None in given and any(given)) or (not accepted and not any(given)):
            raise ValueError(
                "PayPal's signature covers only the CRC-32 of a body, so that bodies can be forged. Set client_id and "
                "client_secret, to have each event fetched back; or accept it: accept_forgeable_signatures = true"
            )
        if not any(given):
            _log.warning("signatures_can_be_forged", connection=info.data.get("connection"))
        return accepted

    @property
    def forgeable(self) -> bool:
        return True

    @cached_property
    def api(self) -> OAuthApi:
        url = self.api_url or f"https://api-m{'' if self.mode == 'live' else '.sandbox'}.paypal.com"
        return OAuthApi(url, ("v1", "oauth2", "token"), self.client_id or "", self.client_secret or "")

    @cached_property
    def certificates(self) -> Certificates:
        """Where the keys are that sign."""
        return Certificates(live=self.mode == "live")

    async def close(self) -> None:
        await super().close()
        await self.certificates.close()

    async def is_authentic(self, delivery: Delivery) -> bool:
        return await is_authentic(delivery, self.webhook_secrets, self.certificates)

    def sign(self, body: bytes, now: float) -> NoReturn:  # noqa: ARG002 - the base's parameters
        raise CannotSignError

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        paid = {"value": money.to_decimal(amount, currency), "currency_code": currency}
        capture = {"id": f"SAMPLE{invoice}", "status": "COMPLETED", "invoice_id": invoice}
        return as_json({
            "id": f"WH-SAMPLE-{invoice}", "event_type": "PAYMENT.CAPTURE.COMPLETED", "resource_version": "2.0",
            "resource": capture | {"amount": paid},
        })  # fmt: skip

    async def complete(self, item: Payload) -> Payload:
        """The event as the API has it."""
        if item.text("/event_type") not in KINDS or self.client_id is None:
            return item
        name = item.text("/id")
        try:
            return Payload(await self.api.resource("v1", "notifications", "webhooks-events", name))
        except UnusableError as error:  # forged, or not yet there
            raise FetchError(str(error)) from None

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        kind, resource = KINDS.get(item.text("/event_type")), item.part("/resource")
        if kind is None:
            return
        self.require_account(resource.get("/payee/merchant_id") or self.account)
        paid = {"COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED", "REVERSED"} if kind == "payment" else {"COMPLETED"}
        if (status := _status(resource)) not in paid:
            raise UnusableError("not_completed", f"the {kind} is {status}")
        value = resource.get("/amount/value") or resource.get("/amount/total")
        if kind != "payment" and isinstance(value, str):
            value = value.removeprefix("-")
        got = money.from_decimal(value, resource.get("/amount/currency_code") or resource.get("/amount/currency"))
        parent = _parent(resource) if kind != "payment" else None
        invoice = (None, None) if parent else None  # a refund's own invoice_id is that of a credit note
        event_id, reference = item.text("/id"), resource.text("/id")
        yield self.event(item, event_id, kind, got, reference, parent=parent, invoice=invoice, time="/create_time")


def _status(resource: Payload) -> str:
    return (resource.optional_text("/status") or resource.text("/state")).upper()


def _parent(resource: Payload) -> str | None:
    """The capture or sale that a refund is of."""
    named = resource.optional_text("/capture_id", "/sale_id")
    links = resource.parts("/links") if named is None and resource.get("/links") is not None else ()
    hrefs = [str(link.get("/href")) for link in links if link.get("/rel") in {"up", "capture", "sale"}]
    return next((found[1] for href in hrefs if (found := _PARENT.fullmatch(href))), named)

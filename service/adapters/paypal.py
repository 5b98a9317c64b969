"""PayPal: https://developer.paypal.com/api/rest/webhooks/rest/ and https://developer.paypal.com/docs/api/payments/v2/.

PayPal signs no more of a body than its CRC-32, and whoever has seen one webhook can make another with the same. So what
a webhook names is fetched from the API, and that is what counts.
"""

import base64
import re
import time
import zlib
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, NoReturn

import structlog
from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from service.adapters import money
from service.adapters.adapter import Adapter, CannotSignError, Delivery, FetchError, Pointers, Secret, as_json
from service.adapters.api import Api, ApiUrl
from service.adapters.payload import Payload, UnusableError
from service.adapters.paypal_certificates import Certificates
from service.database import PaymentEvent

REPORTS = {
    "PAYMENT.CAPTURE.COMPLETED": ("payment", "v2", "captures"),
    "PAYMENT.CAPTURE.REFUNDED": ("refund", "v2", "refunds"),
    "PAYMENT.CAPTURE.REVERSED": ("chargeback", "v2", "refunds"),
    "PAYMENT.SALE.COMPLETED": ("payment", "v1", "sale"),
    "PAYMENT.SALE.REFUNDED": ("refund", "v1", "refund"),
    "PAYMENT.SALE.REVERSED": ("chargeback", "v1", "refund"),
}
"""What an event is, and where the API has what it names. Disputes are information: a lost one reverses the capture."""
MAX_AGE = 4 * 86400
"""Seconds since a transmission: PayPal tries for three days."""
MAX_AHEAD = 300
"""Seconds that our clock may be behind."""
_ID = re.compile(r"[A-Za-z0-9-]{1,100}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)
_PARENT = re.compile(r".*/(?:captures?|sale)/([A-Za-z0-9-]{1,100})", re.ASCII)
_log = structlog.get_logger()


class PayPal(Adapter):
    """`webhook_secrets` are the webhook's id: it is signed along, and PayPal's key makes the signature.

    `client_id` and `client_secret` are the REST app's. Without them webhooks are taken at their word, which has to be
    accepted by `accept_forgeable_signatures = true`.
    """

    client_id: Secret | None = None
    client_secret: Annotated[Secret | None, Field(repr=False)] = None
    accept_forgeable_signatures: Annotated[bool, Field(validate_default=True)] = False
    api_url: ApiUrl | None = None
    """The API of the connection's mode, if not set."""
    invoice: Pointers = (
        "/resource/invoice_id",
        "/resource/custom_id",
        "/resource/invoice_number",
        "/resource/custom",
    )

    _api: Api = PrivateAttr()
    _token: tuple[str, float] = PrivateAttr(("", 0.0))
    _certificates: Certificates = PrivateAttr()

    @field_validator("accept_forgeable_signatures")
    @classmethod
    def _either(cls, accepted: bool, info: ValidationInfo) -> bool:
        given = [info.data.get(name) for name in ("client_id", "client_secret")]
        if (None in given and any(given)) or (not accepted and not any(given)):
            raise ValueError(
                "PayPal's signature covers only the CRC-32 of a body, so that bodies can be forged. Set client_id and "
                "client_secret, to have each payment fetched back; or accept it: accept_forgeable_signatures = true"
            )
        return accepted

    def model_post_init(self, context: Any, /) -> None:  # noqa: ARG002 - pydantic's signature
        self._api = Api(self.api_url or f"https://api-m{'' if self.mode == 'live' else '.sandbox'}.paypal.com")
        self._certificates = Certificates(live=self.mode == "live")
        if self.client_id is None:
            _log.warning("signatures_can_be_forged", connection=self.connection)

    async def is_authentic(self, delivery: Delivery) -> bool:
        name, sent = delivery.header("PAYPAL-TRANSMISSION-ID"), delivery.header("PAYPAL-TRANSMISSION-TIME")
        if (
            delivery.header("PAYPAL-AUTH-ALGO") != "SHA256withRSA"
            or not _ID.fullmatch(name)
            or not _is_recent(sent, delivery.received_at)
        ):
            return False
        try:
            signature = base64.b64decode(delivery.header("PAYPAL-TRANSMISSION-SIG"), validate=True)
        except ValueError:
            return False
        certificate = await self._certificates.at(delivery.header("PAYPAL-CERT-URL"))
        messages = [f"{name}|{sent}|{key}|{zlib.crc32(delivery.body)}" for key in self.webhook_secrets]
        return certificate is not None and any(
            certificate.verifies(signature, message, delivery.received_at) for message in messages
        )

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
        """The event with its resource as the API has it."""
        report = REPORTS.get(item.text("/event_type"))
        if report is None or self.client_id is None:
            return item
        kind, version, place = report
        name = item.text("/resource/id")
        resource = await self._fetched(version, "payments", place, name)
        if resource.get("id") != name:
            raise FetchError(f"the API's answer is not about {name}")
        if kind == "payment" and _status(Payload(resource)) == "PENDING":
            raise FetchError(f"the API does not know yet that {name} is completed")
        return Payload(item.value | {"resource": resource})

    async def close(self) -> None:
        await self._api.close()
        await self._certificates.close()

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        report = REPORTS.get(item.text("/event_type"))
        if report is None:
            return
        kind, resource = report[0], item.part("/resource")
        self.require_account(resource.get("/payee/merchant_id") or self.account)
        paid = {"COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED", "REVERSED"} if kind == "payment" else {"COMPLETED"}
        if (status := _status(resource)) not in paid:
            raise UnusableError("not_completed", f"the {kind} is {status}")
        value = resource.get("/amount/value") or resource.get("/amount/total")
        if kind != "payment" and isinstance(value, str):
            value = value.removeprefix("-")
        got = money.from_decimal(value, resource.get("/amount/currency_code") or resource.get("/amount/currency"))
        parent = _parent(resource) if kind != "payment" else None
        yield self.event(item, item.text("/id"), kind, got, resource.text("/id"), parent=parent, time="/create_time")

    async def _fetched(self, *path: str) -> Any:
        if time.monotonic() >= self._token[1]:
            self._token = await self._new_token()
        try:
            return await self._api.get(*path, headers={"Authorization": f"Bearer {self._token[0]}"})
        except FetchError:
            self._token = ("", 0.0)
            raise

    async def _new_token(self) -> tuple[str, float]:
        """An access token, and until when it serves. Raises FetchError."""
        login = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        try:
            answer = Payload(
                await self._api.post_form(
                    "v1",
                    "oauth2",
                    "token",
                    form={"grant_type": "client_credentials"},
                    headers={"Authorization": f"Basic {login}"},
                )
            )
            token, seconds = answer.get("/access_token"), answer.get("/expires_in")
            if not isinstance(token, str) or not token.isascii() or not token.isprintable() or type(seconds) is not int:
                raise FetchError("PayPal's API gave no access token")
        except UnusableError as error:
            raise FetchError(str(error)) from None
        return token, time.monotonic() + seconds - 60


def _is_recent(sent: str, now: float) -> bool:
    try:
        return bool(_TIME.fullmatch(sent)) and -MAX_AHEAD <= now - datetime.fromisoformat(sent).timestamp() <= MAX_AGE
    except ValueError:
        return False


def _status(resource: Payload) -> str:
    return (resource.optional_text("/status") or resource.text("/state")).upper()


def _parent(resource: Payload) -> str | None:
    """The capture or sale that a refund is of."""
    named = resource.optional_text("/capture_id") or resource.optional_text("/sale_id")
    links = resource.parts("/links") if named is None and resource.get("/links") is not None else ()
    for link in links:
        href = link.get("/href")
        if (
            link.get("/rel") in {"up", "capture", "sale"}
            and isinstance(href, str)
            and (found := _PARENT.fullmatch(href))
        ):
            return found[1]
    return named

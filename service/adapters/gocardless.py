"""GoCardless: https://developer.gocardless.com/api-reference/#webhooks-overview and #event-types-payment there.

A webhook names up to 250 events and no money; the payment or refund of each that moves some is fetched from the API.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import Field

from service.adapters import money
from service.adapters.adapter import Pointers, Secret, as_json
from service.adapters.api import Api, ApiUrl, FetchingAdapter
from service.adapters.payload import Payload
from service.adapters.signatures import HmacAdapter, HmacScheme
from service.database import PaymentEvent

KINDS = {
    "payments": {
        "confirmed": "payment",
        "failed": "payment_reversal",
        "charged_back": "chargeback",
        "chargeback_cancelled": "chargeback_reversal",
    },
    "refunds": {"paid": "refund", "failed": "refund_reversal", "funds_returned": "refund_reversal"},
}
"""What the actions mean that move money; paid_out and the …_settled are about payouts."""


class GoCardless(HmacAdapter, FetchingAdapter):
    """`webhook_secrets` are the secrets of the webhook endpoint, `access_token` reads payments, refunds and events."""

    access_token: Annotated[Secret, Field(repr=False)]
    api_url: ApiUrl | None = None
    """The API of the connection's mode, if not set."""
    invoice: Pointers = ("/resource/metadata/invoice_id", "/resource_metadata/invoice_id")

    scheme: ClassVar = HmacScheme("Webhook-Signature")

    @cached_property
    def api(self) -> Api:
        host = "api" if self.mode == "live" else "api-sandbox"
        headers = {"Authorization": f"Bearer {self.access_token}", "GoCardless-Version": "2015-07-06"}
        return Api(self.api_url or f"https://{host}.gocardless.com", headers)

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:  # noqa: ARG002 - a webhook holds no money
        event = {"id": f"EV_sample_{invoice}", "resource_type": "payments", "action": "confirmed"}
        return as_json({"events": [event | {"links": {"payment": f"PM_sample_{invoice}"}}]})

    def items(self, body: bytes) -> Iterable[Payload]:
        """A webhook's events, or the one that a line of an export is."""
        whole = Payload.of_json(body)
        return [whole] if "resource_type" in whole.value else whole.parts("/events")

    async def complete(self, item: Payload) -> Payload:
        """The event, with its payment or refund as /resource."""
        resource_type, action = item.text("/resource_type"), item.text("/action")
        if action not in KINDS.get(resource_type, {}):
            return item
        self.require_account(item.get("/links/organisation") or self.account)
        if action == "failed" and resource_type == "payments" and not await self._was_confirmed(item):
            return item
        name = item.text(f"/links/{resource_type.removesuffix('s')}")
        resource = await self.api.resource(resource_type, name, within=resource_type, keep=True)
        return Payload(item.value | {"resource": resource}, item.at)

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        kind = KINDS.get(item.text("/resource_type"), {}).get(item.text("/action"))
        if kind is None or item.get("/resource") is None:
            return
        got = money.from_minor(item.get("/resource/amount"), item.get("/resource/currency"))
        reference = item.text("/resource/id")
        parent = None
        if item.get("/resource_type") == "refunds":
            parent = item.text("/resource/links/payment")
        elif kind.startswith("chargeback"):
            parent = reference
        yield self.event(item, item.text("/id"), kind, got, reference, parent=parent, time="/created_at")

    async def _was_confirmed(self, item: Payload) -> bool:
        """Whether a payment that failed had been confirmed before: banks may be late to say so."""
        created = item.text("/created_at")
        query = {"payment": item.text("/links/payment"), "action": "confirmed", "created_at[lt]": created, "limit": "1"}
        return bool((await self.api.get("events", query=query, keep=True)).get("events"))

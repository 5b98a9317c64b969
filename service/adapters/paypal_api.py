"""PayPal's API, which says whether an event is PayPal's: what PayPal signs of a webhook can be forged."""

from functools import cached_property
from typing import Annotated

import structlog
from pydantic import Field, ValidationInfo, field_validator

from service.adapters.adapter import Secret
from service.adapters.api import ApiUrl, FetchingAdapter, OAuthApi

_log = structlog.get_logger()


class ConfirmedByPayPal(FetchingAdapter):
    """`client_id` and `client_secret` are the REST app's.

    Without them webhooks are taken at their word, which has to be accepted by `accept_forgeable_signatures = true`.
    """

    client_id: Secret | None = None
    client_secret: Annotated[Secret | None, Field(repr=False)] = None
    accept_forgeable_signatures: Annotated[bool, Field(validate_default=True)] = False
    api_url: ApiUrl | None = None
    """The API of the connection's mode, if not set."""

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

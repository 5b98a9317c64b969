"""Our own JSON: what a merchant's own system sends to the plain endpoints."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from service.adapters import strict_json
from service.adapters.payload import as_moment
from service.database import PaymentEvent
from service.problems import FieldError, Problem

Kind = Literal["payment", "refund", "chargeback", "payment_reversal", "refund_reversal", "chargeback_reversal"]
Text = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00]*$")]

_OUT_OF_RANGE = {"greater_than_equal", "less_than_equal"}


def _only_text(value: object) -> object:
    if not isinstance(value, str):  # pydantic would take a number as seconds since 1970
        raise PydanticCustomError("datetime_type", "Input should be a string")
    return value


class PaymentRequest(BaseModel):
    """A payment event as a merchant's own system reports it. Unknown fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)

    event_id: Text = Field(description="Your idempotency key: the same event_id posts once.", examples=["event_12345"])
    invoice_id: int = Field(ge=-(2**63), lt=2**63, description="invoices.id, an integer.", examples=[1])
    amount: int = Field(ge=1, le=10**15, description="An integer in minor units: 5000 is 50.00 USD.", examples=[5000])
    currency: Annotated[str, StringConstraints(pattern="^[A-Z]{3}$")] | None = Field(
        default=None, description="Three capital letters (ISO 4217); by default the invoice's.", examples=["USD"]
    )
    kind: Kind = Field(default="payment", description="What happened; amount is positive whatever the kind.")
    reference: Text | None = Field(
        default=None,
        validate_default=True,
        description="Your id of the movement of money, posted once per kind; a reversal carries its base's.",
    )
    occurred_at: Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_only_text)] | None = Field(
        default=None, description="When it happened: RFC 3339 with an offset. Nothing is decided by it."
    )

    @field_validator("occurred_at")
    @classmethod
    def _is_of_our_calendar(cls, time: datetime | None) -> datetime | None:
        if time is not None and (time := as_moment(time)) is None:
            raise PydanticCustomError("datetime_range", "Input should lie within the years 1 to 9999 UTC")
        return time

    @field_validator("reference")
    @classmethod
    def _reversal_needs_reference(cls, reference: str | None, info: ValidationInfo) -> str | None:
        if reference is None and info.data.get("kind", "").endswith("_reversal"):
            raise PydanticCustomError("missing", "A reversal needs the reference of what it undoes")
        return reference


def translate(body: bytes) -> PaymentEvent:
    """The payment event of a request's body.

    Raises Problem, which names every bad field: 400 for what is not JSON or has a wrong type, 422 for a number out of
    its range.
    """
    try:
        value = strict_json.parse(body)
    except strict_json.JsonError as error:
        raise Problem(400, "not-json", f"Send one JSON object: {error}.") from None
    try:
        request = PaymentRequest.model_validate(value)
    except ValidationError as error:
        raise _problem(error) from None
    return PaymentEvent(
        request.event_id,
        request.invoice_id,
        request.amount,
        None if request.kind == "payment" else request.kind,
        request.currency,
        reference=request.reference,
        occurred_at=request.occurred_at,
        body=body,
        content_type="application/json",
    )


def _problem(error: ValidationError) -> Problem:
    details = error.errors(include_input=False, include_url=False, include_context=False)
    errors = []
    for detail in details:
        if not detail["loc"]:
            raise Problem(400, "not-json", "Send one JSON object.")
        name = str(detail["loc"][0])
        description = PaymentRequest.model_fields[name].description
        errors.append(FieldError(pointer=f"#/{name}", detail=f"{detail['msg']}. {description}"))
    if all(detail["type"] in _OUT_OF_RANGE for detail in details):
        return Problem(422, "out-of-range", "Correct the fields named in errors and send it again.", errors=errors)
    return Problem(400, "invalid-fields", "Correct the fields named in errors and send it again.", errors=errors)

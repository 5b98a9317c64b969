"""What every provider's adapter has in common: settings, verification of the raw bytes, translation into facts."""

import asyncio
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeAlias

from multidict import CIMultiDict, MultiMapping
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from service.adapters.money import Money
from service.adapters.payload import Payload, UnusableError, is_storable, put
from service.database import DeadLetter, Link, PaymentEvent

MIN_SECRET = 8
"""Characters; nobody issues a shorter secret."""
_ID = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


NOT_FETCHED = "not_fetched"
"""The reason of a dead letter about which the provider's API is asked again, see claim_unfetched_delivery()."""


class FetchError(Exception):
    """A provider's API did not tell what we asked."""


class CannotSignError(Exception):
    """Nobody but the provider has the key that signs webhooks of this connection."""


class Delivery(NamedTuple):
    """A request as it came."""

    headers: MultiMapping[str]
    body: bytes
    received_at: float
    """Seconds since 1970."""

    @classmethod
    def kept(cls, body: bytes, content_type: str | None) -> Self:
        """As it comes out of the database, or a provider's export: nothing is left to verify."""
        return cls(CIMultiDict({"Content-Type": content_type or ""}), body, time.time())

    def header(self, name: str) -> str:
        """The header's value; empty where it is missing or given twice."""
        values = list(self.headers.getall(name, ()))
        return values[0] if len(values) == 1 else ""


Fact: TypeAlias = PaymentEvent | Link | DeadLetter


def _listed(value: object) -> object:
    """An environment variable's text, as the list that a TOML file would have."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _pairs(value: object) -> object:
    """An environment variable's `name=value,…`, as the table that a TOML file would have."""
    if not isinstance(value, str):
        return value
    pairs = [part.rpartition("=") for part in value.split(",")]
    if not all(name for name, _, _ in pairs):
        raise ValueError("expected name=word, and commas between several")
    return {name.strip(): word.strip() for name, _, word in pairs}


def _long_enough(secret: str) -> str:
    if len(secret.strip()) < MIN_SECRET:
        raise ValueError(f"a secret has at least {MIN_SECRET} characters; copy it whole from the provider's pages")
    return secret.strip()


def _pointer(pointer: str) -> str:
    if not pointer.startswith("/"):
        raise ValueError("expected JSON pointers such as /data/object/metadata/invoice_id")
    return pointer


Secret: TypeAlias = Annotated[str, AfterValidator(_long_enough)]
Secrets: TypeAlias = Annotated[tuple[Secret, ...], BeforeValidator(_listed), Field(min_length=1, repr=False)]
Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Pairs = BeforeValidator(_pairs)
CurrencyCode: TypeAlias = Annotated[str, Field(pattern="^[A-Z]{3}$")]
Pointer: TypeAlias = Annotated[str, AfterValidator(_pointer)]
Pointers: TypeAlias = Annotated[tuple[Pointer, ...], BeforeValidator(_listed)]


class Adapter(BaseModel, ABC):
    """A connection to one provider's account: its settings, and how its webhooks are verified and translated.

    Each field is a setting: `<ADAPTER>_<FIELD>` in the environment, or a key of the connection's TOML table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    connection: str = Field(pattern=r"^[a-z0-9_-]{1,63}$")
    webhook_secrets: Secrets
    """Any of them verifies, so that a secret can be replaced without a gap."""
    mode: Literal["live", "test"] = "live"
    """Events of the other mode become dead letters."""
    account: str | None = None
    """The provider's id of our account; events of another become dead letters."""
    invoice: Pointers
    """Where an event may name its invoice; the first that holds something counts."""
    invoice_is: Literal["id", "reference"] = "id"
    """What stands there: invoices.id, or a name out of invoice_references. What is no plain integer is never an id."""

    tells_account: ClassVar[bool] = True
    """Whether a body says, under the signature, of which account it is; where it does not, `account` is refused."""
    answer: ClassVar[bytes] = b""
    """The body of the answer, where the provider wants a certain one."""
    methods: ClassVar[tuple[str, ...]] = ("POST",)
    """With GET too, where the provider asks for a challenge()'s answer before it sends webhooks."""

    @field_validator("account")
    @classmethod
    def _can_be_checked(cls, account: str | None) -> str | None:
        if not cls.tells_account:
            raise ValueError("the provider's events do not tell whose they are; remove it, and use a secret an account")
        return account

    @property
    def forgeable(self) -> bool:
        """Whether a body counts for nothing until the provider's API has confirmed it."""
        return False

    @abstractmethod
    async def is_authentic(self, delivery: Delivery) -> bool:
        """Whether the provider sent these very bytes; any doubt is no. Decided before anything is parsed."""

    @abstractmethod
    def translate(self, item: Payload) -> Iterable[PaymentEvent | Link]:
        """What one event of the provider reports; nothing, if no money moved. Raises UnusableError."""

    @abstractmethod
    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        """A body that pays an invoice, `amount` in the provider's minor units, to try a setup without the provider."""

    def naming(self, invoice: str, sample: dict[str, Any]) -> dict[str, Any]:
        """The sample with the invoice where our pointers look first."""
        for pointer in self.invoice[:1]:
            put(sample, pointer, invoice)
        return sample

    def sign(self, body: bytes, now: float) -> Mapping[str, str]:  # noqa: ARG002 - most sign in headers
        """The headers that make a sample authentic; none where it is signed within. Raises CannotSignError."""
        return {}

    def items(self, body: bytes) -> Iterable[Payload]:
        """The events of a body. Raises UnusableError."""
        return [Payload.of_json(body)]

    async def complete(self, item: Payload) -> Payload:
        """What translate() gets: the item itself, unless the money has to be fetched from the provider's API.

        Raises UnusableError, FetchError.
        """
        return item

    def challenge(self, query: MultiMapping[str]) -> str | None:  # noqa: ARG002 - most have none
        """The text that proves to the provider, which asked with GET, that this is ours; None for no challenge."""
        return None

    async def close(self) -> None:
        """Let go of what complete() has opened."""

    async def facts(self, delivery: Delivery) -> list[Fact]:
        """All that an authentic delivery reports; what is of no use becomes a dead letter and spoils nothing else.

        Where the provider's API does not tell, a dead letter keeps the body for it to be asked again. Raises FetchError
        where the body is forgeable: then nothing is kept, and it has to come again.
        """
        content_type = delivery.header("Content-Type")[:255].encode("ascii", "replace").decode()
        facts: list[Fact] = []
        unusable: dict[str, list[str]] = {}
        try:
            items = list(self.items(delivery.body))
        except UnusableError as error:
            return [DeadLetter(self.connection, error.reason, str(error), delivery.body, content_type)]
        if len(items) == 1:
            whole = [await self._completed(items[0])]
        else:
            whole = await asyncio.gather(*map(self._completed, items))
        for item, completed in zip(items, whole, strict=True):
            try:
                if isinstance(completed, Exception):
                    raise completed
                for fact in self.translate(completed):  # what comes before an error stays
                    facts.append(  # noqa: PERF401
                        fact._replace(connection=self.connection, body=delivery.body, content_type=content_type)
                    )
            except UnusableError as error:
                unusable.setdefault(error.reason, []).append(f"{item.at}: {error}" if item.at else str(error))
            except FetchError as error:
                if self.forgeable:
                    raise
                unusable[NOT_FETCHED] = [str(error)]
        for reason, details in unusable.items():  # one letter a reason, since each keeps the whole body
            detail = "; ".join(details[:5]) + (f"; and {len(details) - 5} more" if len(details) > 5 else "")
            facts.append(DeadLetter(self.connection, reason, detail, delivery.body, content_type))
        return facts

    async def _completed(self, item: Payload) -> Payload | Exception:
        """As complete(); an error is returned, so that the other items are completed too."""
        try:
            return await self.complete(item)
        except (UnusableError, FetchError) as error:
            return error

    def event(
        self,
        item: Payload,
        event_id: str,
        kind: str,
        money: Money,
        reference: str,
        *,
        parent: str | None = None,
        invoice: tuple[int | None, str | None] | None = None,
        time: str,
    ) -> PaymentEvent:
        """The event of one movement of money; `parent` is the payment that a refund or chargeback is about.

        The item names the invoice where our pointers say, unless `invoice` gives its id or reference. A payment that
        names none waits until its own reference becomes one in invoice_references, by a link or by hand. `time` is
        where the item says when it happened. Raises UnusableError.
        """
        invoice_id, invoice_reference = self.invoice_named(item) if invoice is None else invoice
        if invoice_id is None and invoice_reference is None and not kind.endswith("_reversal") and parent is None:
            if kind != "payment":
                raise UnusableError("no_invoice", f"{kind} {reference} names neither an invoice nor its payment")
            invoice_reference = reference
        for name, value in (("event_id", event_id), ("reference", reference), ("parent", parent or "none")):
            if not is_storable(value):
                raise UnusableError("unreadable", f"the {name} {value[:40]!r} is not 1 to 255 characters")
        return PaymentEvent(
            event_id,
            invoice_id,
            money.amount,
            kind,
            money.currency,
            reference=reference,
            parent_reference=parent,
            invoice_reference=invoice_reference,
            occurred_at=item.time(time),
        )

    def invoice_named(self, item: Payload) -> tuple[int | None, str | None]:
        """The invoice's id or reference at the first of our pointers that holds one. Raises UnusableError."""
        name = item.optional_identifier(*self.invoice)
        if name is None:
            return None, None
        is_id = self.invoice_is == "id" and _ID.fullmatch(name) and int(name) < 2**63
        return (int(name), None) if is_id else (None, name)

    def links(self, item: Payload, *references: object) -> Iterable[Link]:
        """A link of each of `references` that is one to the invoice that the item names, if any."""
        named = self.invoice_named(item)
        if named != (None, None):
            for reference in references:
                if isinstance(reference, str) and is_storable(reference) and reference != named[1]:
                    yield Link(reference, *named)

    def require_mode(self, *, live: bool) -> None:
        """Raise UnusableError for a test event on a live connection, or a live event on a test connection."""
        if live != (self.mode == "live"):
            sent = "live" if live else "test"
            raise UnusableError(
                "wrong_mode", f"a {sent} event came to connection {self.connection}, which is {self.mode}"
            )

    def require_account(self, account: object) -> None:
        """Raise UnusableError for an event of another account than the configured one."""
        if self.account is not None and account != self.account:
            raise wrong_account(account, self.account)


def wrong_account(account: object, ours: str) -> UnusableError:
    """The error for an event of another account than ours."""
    return UnusableError("wrong_account", f"the event is of account {str(account)[:80]!r}, not {ours!r}")


def as_json(value: Mapping[str, Any]) -> bytes:
    """The body of a sample."""
    return json.dumps(value).encode()

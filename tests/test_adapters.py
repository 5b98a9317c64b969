"""What holds for every adapter: signatures are all or nothing, and no body is too strange.

Numbers are rows of the list of hostile input.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from multidict import CIMultiDict, MultiMapping
from pydantic import ValidationError

from service.adapters.adapter import Delivery
from service.connections import ADAPTERS
from service.database import DeadLetter, PaymentEvent
from tests.providers import EXAMPLES, FETCHED, NOW, example, facts, signed

Mangle = Callable[[str], str]
BODIES = [
    pytest.param(b"", id="61 empty"),
    pytest.param(b'{"id": "\xff"}', id="62 invalid UTF-8"),
    pytest.param('{"id": 1}'.encode("utf-16"), id="62 UTF-16"),
    pytest.param(b'{"id": NaN}', id="63 NaN"),
    pytest.param(b'{"id": 1, "id": 2}', id="64 duplicate keys"),
    pytest.param(b'{"id": {"a": 1, "\\u0061": 2}}', id="64 duplicate keys within, one of them escaped"),
    pytest.param(b"[" * 100_000, id="65 nested deeply"),
    pytest.param(b'{"id":' * 300 + b"1" + b"}" * 300, id="65 nested deeply, and closed"),
    pytest.param(b'{"id": ' + b"9" * 5000 + b"}", id="66 a 5,000-digit integer"),
    pytest.param(b"[]", id="67 top-level array"),
    pytest.param(b'"text"', id="67 top-level string"),
    pytest.param(b'{"id": 1} x', id="68 trailing garbage"),
    pytest.param(b'{"id": "\\ud800"}', id="69 a lone surrogate"),
    pytest.param(b"{}", id="nothing in it"),
]

pytestmark = pytest.mark.parametrize("name", EXAMPLES)


async def authentic(name: str, headers: MultiMapping[str] | dict[str, str], body: bytes, **settings: Any) -> bool:
    return await example(name, **settings).is_authentic(Delivery(CIMultiDict(headers), body, NOW))


async def test_a_sample_is_authentic_and_pays_its_invoice(name: str) -> None:
    adapter = example(name)
    delivery = signed(adapter, adapter.sample("42", 5000, "EUR"))
    assert await adapter.is_authentic(delivery)
    if name in FETCHED:
        return  # its own tests have an API to ask
    event = (await adapter.facts(delivery))[-1]
    assert isinstance(event, PaymentEvent)
    assert (event.connection, event.kind, event.invoice_id, event.amount, event.currency) == (
        (name, "payment", 42, 5000, "EUR")
    )


@pytest.mark.parametrize("pointer", ["/elsewhere/order", "/elsewhere"])
async def test_a_sample_names_its_invoice_where_that_is_looked_for(name: str, pointer: str) -> None:
    if name in {*FETCHED, "braintree", "paypal", "standard_webhooks"}:
        pytest.skip("its sample names no invoice, or in its own place alone")
    adapter = example(name, invoice=[pointer], invoice_is="reference")
    event = (await adapter.facts(signed(adapter, adapter.sample("42", 5000, "EUR"))))[-1]
    assert isinstance(event, PaymentEvent)
    assert event.invoice_reference == "42"


async def test_either_secret_of_a_rotation_verifies_and_no_other(name: str) -> None:
    first, second = EXAMPLES[name]["webhook_secrets"]
    other = example(name, webhook_secrets=[second])
    with_second = signed(other, other.sample("42", 5000, "EUR"))
    assert await authentic(name, with_second.headers, with_second.body)  # 38
    assert not await authentic(name, with_second.headers, with_second.body, webhook_secrets=[first])  # 30, 51


@pytest.mark.parametrize(
    "mangle",
    [
        pytest.param(lambda _: "", id="28 empty"),
        pytest.param(lambda value: value[:-1], id="34 cut short"),
        pytest.param(lambda value: value[:-9] + "é" * 9, id="35 non-ASCII"),
        pytest.param(lambda value: value[:-9] + "\udcff" * 9, id="35 not UTF-8"),
        pytest.param(lambda value: value[:-9] + "!@#$%^&*(", id="36 junk"),
        pytest.param(lambda value: value[:-5] + ("11111" if value[-5:] != "11111" else "22222"), id="31 another MAC"),
        pytest.param(lambda value: ",".join([value] * 10_000), id="39 ten thousand signatures"),
    ],
)
async def test_a_signature_that_is_not_whole_is_none(name: str, mangle: Mangle) -> None:
    body = example(name).sample("42", 5000, "EUR")
    headers = signed(example(name), body).headers
    if not headers:
        pytest.skip("its signature is in the body")
    assert not await authentic(name, {key: mangle(value) for key, value in headers.items()}, body)
    assert not await authentic(name, {}, body)  # 27
    assert not await authentic(name, CIMultiDict([*headers.items(), *headers.items()]), body)  # 29


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda body: body.replace(b"42", b"43"), id="31 one byte"),
        pytest.param(lambda body: json.dumps(json.loads(body), separators=(",", ":")).encode(), id="32 re-serialised"),
        pytest.param(lambda body: body + b"\n", id="33 newline added"),
        pytest.param(lambda body: body[:-1], id="34 cut short"),
        pytest.param(lambda _: b"", id="61 empty"),
    ],
)
async def test_a_signature_covers_every_byte(name: str, change: Callable[[bytes], bytes]) -> None:
    body = example(name).sample("42", 5000, "EUR")
    headers = signed(example(name), body).headers
    if not headers:
        pytest.skip("its signature is in the body, and covers a part of it")
    assert not await authentic(name, headers, change(body))


@pytest.mark.parametrize("secrets", [[], [""], ["   "], ["short"], "", ","], ids=repr)
def test_an_empty_blank_or_short_secret_is_refused(name: str, secrets: object) -> None:
    with pytest.raises(ValidationError):
        example(name, webhook_secrets=secrets)  # 47, 48


@pytest.mark.parametrize("body", BODIES)
async def test_a_strange_body_is_a_dead_letter(name: str, body: bytes) -> None:
    [letter] = await facts(example(name), body)
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.body, letter.connection) == ("unreadable", body, name)


def test_every_adapter_is_tried_here(name: str) -> None:  # noqa: ARG001 - one look is enough
    assert set(EXAMPLES) == set(ADAPTERS)


def test_an_account_is_a_setting_only_where_events_tell_whose_they_are(name: str) -> None:
    if name in {"coinbase", "generic", "paddle", "paystack", "shopify", "standard_webhooks"}:
        with pytest.raises(ValidationError) as error:
            example(name, account="ours")
        assert [wrong["loc"] for wrong in error.value.errors()] == [("account",)]
    else:
        assert example(name, account="ours").account == "ours"

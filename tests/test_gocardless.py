"""GoCardless: signatures, what is fetched, and what each event means."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from multidict import CIMultiDict

from service.adapters.adapter import Adapter, Delivery
from service.database import DeadLetter, PaymentEvent
from tests.provider_api import ProviderApi, provider_api
from tests.providers import NOW, example, facts, in_short, payloads, vectors

PM: dict[str, Any] = {"id": "PM1", "amount": 5000, "currency": "EUR", "metadata": {"invoice_id": "42"}}
RF: dict[str, Any] = {"id": "RF1", "amount": 500, "currency": "EUR", "metadata": {}, "links": {"payment": "PM1"}}
PAID = ("payment", 5000, "EUR", "PM1", 42)
WHEN = "2026-09-21T14:13:20.000Z"


@pytest.fixture
async def provider() -> AsyncIterator[ProviderApi]:
    async with provider_api() as provider:
        provider.answers |= {"/payments/PM1": {"payments": PM}, "/refunds/RF1": {"refunds": RF}}
        provider.answers["/events"] = {"events": []}
        yield provider


@pytest.fixture
async def adapter(provider: ProviderApi) -> AsyncIterator[Adapter]:
    adapter = example("gocardless", api_url=provider.url)
    yield adapter
    await adapter.close()


def event(resource: str, action: str, number: int = 1, **fields: Any) -> dict[str, Any]:
    name = {"payments": "PM1", "refunds": "RF1"}.get(resource, "XX1")
    named = {"id": f"EV{number}", "created_at": WHEN, "resource_type": resource, "action": action}
    return named | {"links": {resource.removesuffix("s"): name}} | fields


async def what(adapter: Adapter, *events: Any) -> list[tuple[Any, ...]]:
    return in_short(await facts(adapter, {"events": list(events)}))


async def test_an_event_of_an_export_is_read_as_one_of_a_webhook(adapter: Adapter) -> None:
    assert in_short(await facts(adapter, event("payments", "confirmed"))) == [PAID]


@pytest.mark.parametrize("vector", vectors("gocardless"))
async def test_the_vectors_of_others_agree(vector: dict[str, Any]) -> None:
    delivery = Delivery(CIMultiDict(vector["headers"]), vector["body"].encode(), NOW)
    assert await example("gocardless", webhook_secrets=[vector["secret"]]).is_authentic(delivery) == vector["valid"]


@pytest.mark.parametrize(
    ("resource", "action", "facts"),
    [
        ("payments", "confirmed", [PAID]),
        ("payments", "created", []),
        ("payments", "submitted", []),
        ("payments", "paid_out", []),
        ("payments", "failed", []),
        ("payments", "late_failure_settled", []),
        ("payments", "cancelled", []),
        ("payments", "charged_back", [("chargeback", 5000, "EUR", "PM1", 42)]),
        ("payments", "chargeback_cancelled", [("chargeback_reversal", 5000, "EUR", "PM1", 42)]),
        ("payments", "chargeback_settled", []),
        ("refunds", "created", []),
        ("refunds", "paid", [("refund", 500, "EUR", "RF1", "PM1")]),
        ("refunds", "refund_settled", []),
        ("refunds", "failed", [("refund_reversal", 500, "EUR", "RF1", "PM1")]),
        ("refunds", "funds_returned", [("refund_reversal", 500, "EUR", "RF1", "PM1")]),
        ("mandates", "failed", []),
        ("payouts", "paid", []),
        ("something", "new", []),  # 106
    ],
)
async def test_an_event_is_what_it_means(
    provider: ProviderApi, adapter: Adapter, resource: str, action: str, facts: list[tuple[Any, ...]]
) -> None:
    assert await what(adapter, event(resource, action)) == facts
    assert bool(provider.asked) == bool(facts or (resource, action) == ("payments", "failed"))


async def test_the_api_is_asked_as_it_wants_to_be(provider: ProviderApi, adapter: Adapter) -> None:
    await what(adapter, event("payments", "confirmed"))
    headers = provider.asked[0].headers
    assert (headers["Authorization"], headers["GoCardless-Version"]) == ("Bearer live_token", "2015-07-06")


@pytest.mark.parametrize(
    ("payment", "reason"),
    [
        ({"amount": "5000"}, "bad_amount"),  # 76
        ({"amount": 50.0}, "bad_amount"),  # 74
        ({"amount": True}, "bad_amount"),  # 75
        ({"amount": 0}, "bad_amount"),  # 88
        ({"amount": -1}, "bad_amount"),  # 78
        ({"currency": "XYZ"}, "unknown_currency"),  # 83
        ({"currency": None}, "unknown_currency"),
    ],
)
async def test_fetched_money_is_read_as_strictly(
    provider: ProviderApi, adapter: Adapter, payment: dict[str, Any], reason: str
) -> None:
    provider.answers["/payments/PM1"] = {"payments": PM | payment}
    assert await what(adapter, event("payments", "confirmed")) == [(reason,)]


async def test_a_payment_that_fails_after_it_was_confirmed_is_reversed(provider: ProviderApi, adapter: Adapter) -> None:
    provider.answers["/events"] = {"events": [{"id": "EV0"}]}
    assert await what(adapter, event("payments", "failed")) == [("payment_reversal", 5000, "EUR", "PM1", 42)]
    query = {"payment": "PM1", "action": "confirmed", "created_at[lt]": WHEN, "limit": "1"}
    assert provider.asked[0].query == query


async def test_a_bad_event_spoils_no_other(adapter: Adapter) -> None:
    other = event("payments", "confirmed", 3, links={"payment": "PM404"})
    assert await what(adapter, event("payments", "confirmed"), 5, other, {}, event("refunds", "paid", 4)) == [
        ("payment", 5000, "EUR", "PM1", 42),
        ("refund", 500, "EUR", "RF1", "PM1"),
        ("unreadable",),
        ("not_found",),
    ]  # 100
    for link in (None, "", "..", "\ud800", 7):
        assert await what(adapter, event("payments", "confirmed", links={"payment": link})) == [("unreadable",)]


async def test_a_batch_goes_on_where_it_left_off(provider: ProviderApi, adapter: Adapter) -> None:
    batch = [event("payments", "confirmed", n, links={"payment": f"PM{n}"}) for n in range(250)]
    provider.answers |= {f"/payments/PM{n}": {"payments": PM | {"id": f"PM{n}"}} for n in range(249)}
    provider.answers["/payments/PM249"] = 503
    assert await what(adapter, *batch) == [*[(*PAID[:3], f"PM{n}", 42) for n in range(249)], ("not_fetched",)]
    provider.answers["/payments/PM249"] = {"payments": PM | {"id": "PM249"}}
    assert len(await what(adapter, *batch)) == 250
    assert len(provider.asked) == 251


@pytest.mark.parametrize("answer", [401, 403, 500, b"junk", {}, {"payments": []}, {"payments": PM | {"id": "PM2"}}])
async def test_without_an_answer_the_body_is_kept_to_ask_again(
    provider: ProviderApi, adapter: Adapter, answer: Any
) -> None:
    provider.answers["/payments/PM1"] = answer
    assert await what(adapter, event("payments", "confirmed")) == [("not_fetched",)]


async def test_anothers_event_is_unusable(provider: ProviderApi) -> None:
    adapter = example("gocardless", api_url=provider.url, account="OR1")
    paid = event("payments", "confirmed", links={"payment": "PM1", "organisation": "OR2"})
    assert await what(adapter, paid) == [("wrong_account",)]
    assert provider.asked == []


async def test_a_sample_pays_its_invoice(provider: ProviderApi, adapter: Adapter) -> None:
    provider.answers["/payments/PM_sample_42"] = {"payments": PM | {"id": "PM_sample_42"}}
    [paid] = await facts(adapter, adapter.sample("42", 5000, "EUR"))
    assert isinstance(paid, PaymentEvent)
    assert (paid.event_id, paid.invoice_id, paid.amount) == ("EV_sample_42", 42, 5000)


@pytest.mark.parametrize(("mode", "host"), [("live", "api.gocardless.com"), ("test", "api-sandbox.gocardless.com")])
def test_the_mode_chooses_the_api(mode: str, host: str) -> None:
    assert getattr(example("gocardless", mode=mode, api_url=None), "api")._url == f"https://{host}"  # noqa: B009


@pytest.mark.parametrize("body", payloads("gocardless"))
async def test_real_payloads_give_facts_or_a_named_reason(adapter: Adapter, body: bytes) -> None:
    for fact in await facts(adapter, body):
        assert isinstance(fact, PaymentEvent | DeadLetter)

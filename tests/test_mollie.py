"""Mollie: signed and unsigned webhooks, what is fetched, and what it means."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from multidict import CIMultiDict
from pydantic import ValidationError

from service.adapters.adapter import Adapter, Delivery, FetchError
from service.database import DeadLetter, PaymentEvent
from tests.provider_api import ProviderApi, provider_api
from tests.providers import NOW, example, facts, payloads, signed

HEADER = "X-Mollie-Signature"
EUR = {"value": "50.00", "currency": "EUR"}
PAYMENT: dict[str, Any] = {
    "resource": "payment",
    "id": "tr_1",
    "mode": "live",
    "status": "paid",
    "amount": EUR,
    "metadata": {"invoice_id": "42"},
    "profileId": "pfl_1",
    "paidAt": "2026-09-21T14:13:20+00:00",
}
REFUND: dict[str, Any] = {"id": "re_1", "status": "refunded", "amount": {"value": "5.00", "currency": "EUR"}}
CHARGEBACK: dict[str, Any] = {"id": "chb_1", "amount": EUR, "reversedAt": None}
PAID = ("payment", 5000, "EUR", "tr_1", "tr_1:paid", 42, None)


def classic(url: str, **settings: Any) -> Adapter:
    adapter = type(example("mollie"))
    values = {"connection": "mollie", "classic": True, "api_key": "live_key_of_ours", "api_url": url}
    return adapter.model_validate(values | settings)


@pytest.fixture
async def provider() -> AsyncIterator[ProviderApi]:
    async with provider_api() as provider:
        provider.answers["/v2/payments/tr_1"] = PAYMENT
        yield provider


@pytest.fixture(params=["classic", "signed"])
async def adapter(request: pytest.FixtureRequest, provider: ProviderApi) -> AsyncIterator[Adapter]:
    adapter = classic(provider.url) if request.param == "classic" else example("mollie", api_url=provider.url)
    yield adapter
    await adapter.close()


def webhook(adapter: Adapter, name: str = "tr_1") -> bytes | dict[str, Any]:
    if getattr(adapter, "classic", False):
        return f"id={name}".encode()
    return {"resource": "event", "id": "event_1", "type": "payment.paid", "entityId": name}


async def what(adapter: Adapter, body: bytes | dict[str, Any]) -> list[tuple[Any, ...]]:
    short: list[tuple[Any, ...]] = []
    for fact in await facts(adapter, body):
        if isinstance(fact, PaymentEvent):
            names = (fact.reference, fact.event_id, fact.invoice_id, fact.parent_reference)
            short.append((fact.kind, fact.amount, fact.currency, *names))
        else:
            assert isinstance(fact, DeadLetter)
            short.append((fact.reason,))
    return short


@pytest.mark.parametrize(
    ("payment", "facts"),
    [
        ({}, [PAID]),
        *(({"status": status}, []) for status in ("open", "pending", "authorized", "canceled", "expired", "failed")),
        ({"amountRefunded": EUR, "amountChargedBack": EUR}, [PAID]),  # 89
        ({"amountCaptured": {"value": "30.00", "currency": "EUR"}}, [("payment", 3000, *PAID[2:])]),
        ({"metadata": {"invoice_id": 42}}, [PAID]),
        ({"metadata": "42"}, [(*PAID[:5], None, None)]),
        ({"metadata": None}, [(*PAID[:5], None, None)]),
        ({"amount": {"value": "50", "currency": "JPY"}}, [("payment", 50, "JPY", *PAID[3:])]),
        ({"amount": {"value": "10.50", "currency": "JPY"}}, [("bad_amount",)]),  # 81
        ({"amount": {"value": "10.005", "currency": "EUR"}}, [("bad_amount",)]),  # 80
        ({"amount": {"value": 50.0, "currency": "EUR"}}, [("bad_amount",)]),
        ({"amount": {"value": "0.00", "currency": "EUR"}}, []),  # 88, a card's mandate
        ({"amount": {"value": "5.00", "currency": "XYZ"}}, [("unknown_currency",)]),  # 83
        ({"amount": "50.00"}, [("unknown_currency",)]),
        ({"mode": "test"}, [("wrong_mode",)]),  # 92
        ({"mode": None}, [("unreadable",)]),
        ({"status": 1}, [("unreadable",)]),
        ({"_embedded": {"refunds": {}}}, [PAID, ("unreadable",)]),
        ({"_embedded": {"refunds": []}}, [PAID]),
        *(
            ({"_embedded": {"refunds": [REFUND | {"status": status}]}}, [PAID])
            for status in ("queued", "pending", "processing", "canceled")  # 91
        ),
        (
            {"_embedded": {"refunds": [REFUND, REFUND | {"id": "re_2", "status": "failed"}]}},
            [
                PAID,
                ("refund", 500, "EUR", "re_1", "re_1:refunded", 42, "tr_1"),
                ("refund_reversal", 500, "EUR", "re_2", "re_2:failed", 42, "tr_1"),
            ],
        ),
        (
            {"_embedded": {"chargebacks": [CHARGEBACK]}},
            [PAID, ("chargeback", 5000, "EUR", "chb_1", "chb_1:charged_back", 42, "tr_1")],
        ),
        (
            {"_embedded": {"chargebacks": [CHARGEBACK | {"reversedAt": "2026-10-01T00:00:00+00:00"}]}},
            [
                PAID,
                ("chargeback", 5000, "EUR", "chb_1", "chb_1:charged_back", 42, "tr_1"),
                ("chargeback_reversal", 5000, "EUR", "chb_1", "chb_1:reversed", 42, "tr_1"),
            ],
        ),
    ],
)
async def test_what_the_api_says_is_what_counts(
    provider: ProviderApi, adapter: Adapter, payment: dict[str, Any], facts: list[tuple[Any, ...]]
) -> None:
    provider.answers["/v2/payments/tr_1"] = PAYMENT | payment
    assert await what(adapter, webhook(adapter)) == facts
    assert provider.asked[0].headers["Authorization"] == "Bearer live_key_of_ours"


async def test_a_payment_is_looked_at_anew_each_time(provider: ProviderApi, adapter: Adapter) -> None:
    assert len(await what(adapter, webhook(adapter))) == 1
    provider.answers["/v2/payments/tr_1"] = PAYMENT | {"_embedded": {"refunds": [REFUND]}}
    assert len(await what(adapter, webhook(adapter))) == 2


@pytest.mark.parametrize("answer", [401, 403, 500, b"junk", {}, PAYMENT | {"id": "tr_2"}])
async def test_without_an_answer_a_signed_body_is_kept_and_an_unsigned_one_has_to_come_again(
    provider: ProviderApi, adapter: Adapter, answer: Any
) -> None:
    provider.answers["/v2/payments/tr_1"] = answer
    if getattr(adapter, "classic", False):
        with pytest.raises(FetchError):
            await what(adapter, webhook(adapter))
    else:
        assert await what(adapter, webhook(adapter)) == [("not_fetched",)]


async def test_of_what_mollie_does_not_know_only_a_signed_webhook_is_kept(adapter: Adapter) -> None:
    found = await what(adapter, webhook(adapter, "tr_404"))
    assert found == ([] if getattr(adapter, "classic", False) else [("not_found",)])


async def test_anothers_payment_is_unusable(provider: ProviderApi) -> None:
    adapter = classic(provider.url, account="pfl_2")
    assert await what(adapter, b"id=tr_1") == [("wrong_account",)]
    await adapter.close()


@pytest.mark.parametrize(
    ("body", "authentic"),
    [
        (b"id=tr_1", True),
        (b"id=ord_1", True),
        (b"", False),
        (b"id=", False),
        (b"id=tr_", False),
        (b"id=tr_1\n", False),
        (b"id=tr_1&id=tr_2", False),
        (b"id=tr_1&x=1", False),
        (b"id=../refunds", False),
        (b"id=tr_1%2f..", False),
        (b"id=tr_" + b"1" * 65, False),
        (b"id=tr_\xff", False),
        (b'{"id": "tr_1"}', False),
    ],
)
async def test_a_classic_webhook_is_one_id(provider: ProviderApi, body: bytes, *, authentic: bool) -> None:
    adapter = classic(provider.url)
    assert await adapter.is_authentic(Delivery(CIMultiDict(), body, NOW)) == authentic
    if not authentic:
        assert await what(adapter, body) == [("unreadable",)]
    assert provider.asked == []


async def test_what_is_no_payment_is_not_asked_for(provider: ProviderApi) -> None:
    assert await what(classic(provider.url), b"id=ord_1") == []
    assert provider.asked == []


def test_a_classic_webhook_is_not_signed() -> None:
    adapter = classic("http://127.0.0.1:9")
    assert adapter.sample("42", 5000, "EUR") == b"id=tr_sample42"
    assert adapter.sign(b"", NOW) == {}


async def test_a_missing_header_never_downgrades() -> None:
    adapter = example("mollie")
    for body in (b"id=tr_1", b"", adapter.sample("42", 5000, "EUR")):
        assert not await adapter.is_authentic(Delivery(CIMultiDict(), body, NOW))  # 58


async def test_both_secrets_may_sign_while_one_replaces_the_other() -> None:
    both, other = example("mollie"), example("mollie", webhook_secrets=["another secret"])
    first, second = both.webhook_secrets
    old, new, bad = (
        signed(example("mollie", webhook_secrets=[key]), b"{}").headers[HEADER] for key in (first, second, "stranger's")
    )
    for values, authentic in (([old, new], True), ([f"{old}, {new}"], True), ([old, bad], False), ([old, old], False)):
        headers = CIMultiDict([(HEADER, value) for value in values])
        assert await both.is_authentic(Delivery(headers, b"{}", NOW)) == authentic
        assert not await other.is_authentic(Delivery(headers, b"{}", NOW))


@pytest.mark.parametrize("settings", [{"classic": True}, {"classic": True, "webhook_secrets": []}])
def test_secrets_and_classic_exclude_each_other(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        example("mollie", **settings)
    with pytest.raises(ValidationError, match="set webhook_secrets for signed webhooks"):
        classic("http://127.0.0.1:9", classic=False)


def event(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"resource": "event", "id": "event_1", "type": kind, "entityId": name} | fields


async def test_what_a_signed_event_is_about(provider: ProviderApi) -> None:
    provider.answers["/v2/payment-links/pl_1/payments?limit=250"] = {"_embedded": {"payments": [PAYMENT]}}
    adapter = example("mollie", api_url=provider.url)
    assert await what(adapter, event("payment.paid", "tr_1")) == [PAID]
    assert await what(adapter, event("payment-link.paid", "pl_1")) == [PAID]
    other = PAYMENT | {"id": "tr_0", "amount": {"value": "5.00", "currency": "XYZ"}}
    provider.answers["/v2/payment-links/pl_3/payments?limit=250"] = {"_embedded": {"payments": [other, PAYMENT]}}
    assert await what(adapter, event("payment-link.paid", "pl_3")) == [PAID, ("unknown_currency",)]
    provider.answers["/v2/payment-links/pl_4/payments?limit=250"] = {"_embedded": None}
    assert await what(adapter, event("payment-link.paid", "pl_4")) == []
    refunded = event("refund.refunded", "re_1", _embedded={"entity": {"id": "re_1", "paymentId": "tr_1"}})
    assert await what(adapter, refunded) == [PAID]
    charged_back = event("chargeback.received", "chb_1", _embedded={"entity": {"id": "chb_1", "paymentId": "tr_1"}})
    assert await what(adapter, charged_back) == [PAID]
    assert await what(adapter, event("refund.refunded", "re_1")) == [("unreadable",)]
    assert await what(adapter, event("payment.paid", "..")) == [("unreadable",)]
    assert await what(adapter, event("payment-link.paid", "pl_2")) == [("not_found",)]
    assert await what(adapter, event("profile.blocked", "pfl_1")) == []  # 106
    [paid] = [fact for fact in await facts(adapter, event("payment.paid", "tr_1")) if isinstance(fact, PaymentEvent)]
    assert paid.occurred_at is not None
    assert paid.occurred_at.isoformat() == "2026-09-21T14:13:20+00:00"
    await adapter.close()


@pytest.mark.parametrize("body", payloads("mollie"))
async def test_real_payloads_give_facts_or_a_named_reason(provider: ProviderApi, body: bytes) -> None:
    adapter = example("mollie", api_url=provider.url)
    assert await what(adapter, body) in ([], [("unreadable",)], [("not_found",)])
    await adapter.close()

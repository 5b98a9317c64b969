"""PayPal: certificates and signatures, what is fetched back, and what each event means."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from multidict import CIMultiDict
from pydantic import ValidationError

from service.adapters import paypal_certificates
from service.adapters.adapter import Adapter, CannotSignError, Delivery, FetchError
from service.adapters.api import Api
from service.adapters.paypal import PayPal
from service.database import DeadLetter, PaymentEvent
from tests import paypal_key
from tests.provider_api import ProviderApi, provider_api
from tests.providers import NOW, example, facts, payloads, signed

USD = {"currency_code": "USD", "value": "50.00"}
CAPTURE: dict[str, Any] = {"id": "CAP1", "status": "COMPLETED", "amount": USD, "invoice_id": "42"}
UP = {"href": "https://api.paypal.com/v2/payments/captures/CAP1", "rel": "up", "method": "GET"}
SELF = {"href": "https://api.paypal.com/v2/payments/refunds/REF1", "rel": "self", "method": "GET"}
REFUND = {"id": "REF1", "status": "COMPLETED", "amount": USD | {"value": "5.00"}, "links": [SELF, UP]}
SALE = {"id": "SALE1", "state": "completed", "amount": {"total": "0.48", "currency": "USD"}, "custom": "42"}
SALE_REFUND = {"id": "REF2", "state": "completed", "amount": {"total": "-0.15", "currency": "USD"}, "sale_id": "SALE1"}
TOKEN = {"access_token": "A21AA", "expires_in": 32400, "token_type": "Bearer"}
PAID = ("payment", 5000, "USD", "CAP1", 42, None)
EVENT = "/v1/notifications/webhooks-events/WH-1"


def event(kind: str, resource: Any, **fields: Any) -> dict[str, Any]:
    named = {"id": "WH-1", "event_type": kind, "create_time": "2026-09-21T14:13:20Z", "resource_version": "2.0"}
    return named | {"resource": resource} | fields


@pytest.fixture
async def provider() -> AsyncIterator[ProviderApi]:
    async with provider_api() as provider:
        provider.answers["/v1/oauth2/token"] = TOKEN
        yield provider


def fetching(url: str, **settings: Any) -> Adapter:
    credentials = {"client_id": "our client id", "client_secret": "our client secret"}
    return example("paypal", accept_forgeable_signatures=False, api_url=url, **credentials, **settings)


@pytest.fixture
async def adapter(provider: ProviderApi) -> AsyncIterator[Adapter]:
    adapter = fetching(provider.url)
    yield adapter
    await adapter.close()


async def what(adapter: Adapter, body: dict[str, Any] | bytes) -> list[tuple[Any, ...]]:
    short: list[tuple[Any, ...]] = []
    for fact in await facts(adapter, body):
        if isinstance(fact, PaymentEvent):
            named = fact.invoice_id or fact.invoice_reference
            short.append((fact.kind, fact.amount, fact.currency, fact.reference, named, fact.parent_reference))
        else:
            assert isinstance(fact, DeadLetter)
            short.append((fact.reason,))
    return short


@pytest.mark.parametrize(
    ("kind", "resource", "facts"),
    [
        ("PAYMENT.CAPTURE.COMPLETED", CAPTURE, [PAID]),
        ("PAYMENT.CAPTURE.REFUNDED", REFUND, [("refund", 500, "USD", "REF1", None, "CAP1")]),
        (
            "PAYMENT.CAPTURE.REFUNDED",
            REFUND | {"invoice_id": "666", "custom_id": "CN-1"},  # a credit note's
            [("refund", 500, "USD", "REF1", None, "CAP1")],
        ),
        (
            "PAYMENT.CAPTURE.REFUNDED",
            REFUND | {"invoice_id": "42", "links": [SELF]},
            [("refund", 500, "USD", "REF1", 42, None)],
        ),
        ("PAYMENT.CAPTURE.REVERSED", REFUND, [("chargeback", 500, "USD", "REF1", None, "CAP1")]),
        ("PAYMENT.SALE.COMPLETED", SALE, [("payment", 48, "USD", "SALE1", 42, None)]),
        ("PAYMENT.SALE.REFUNDED", SALE_REFUND, [("refund", 15, "USD", "REF2", None, "SALE1")]),
        ("PAYMENT.SALE.REVERSED", SALE_REFUND, [("chargeback", 15, "USD", "REF2", None, "SALE1")]),
        ("PAYMENT.CAPTURE.PENDING", CAPTURE, []),
        ("PAYMENT.CAPTURE.DENIED", CAPTURE, []),
        ("CHECKOUT.ORDER.APPROVED", CAPTURE, []),
        ("CUSTOMER.DISPUTE.CREATED", {"dispute_id": "PP-D-1"}, []),
        ("SOMETHING.NEW", None, []),  # 106
    ],
)
@pytest.mark.parametrize("fetched", [True, False])
async def test_an_event_is_what_it_means(
    provider: ProviderApi, adapter: Adapter, kind: str, resource: Any, facts: list[tuple[Any, ...]], *, fetched: bool
) -> None:
    provider.answers[EVENT] = event(kind, resource)
    assert await what(adapter if fetched else example("paypal"), event(kind, resource)) == facts
    assert bool(provider.asked) == bool(fetched and facts)


@pytest.mark.parametrize(
    ("forged", "real", "facts"),
    [
        pytest.param(
            event("PAYMENT.CAPTURE.COMPLETED", CAPTURE | {"amount": USD | {"value": "999999.00"}, "invoice_id": "666"}),
            event("PAYMENT.CAPTURE.COMPLETED", CAPTURE),
            [PAID],
            id="another amount and invoice",
        ),
        pytest.param(
            event("PAYMENT.CAPTURE.REVERSED", REFUND),
            event("PAYMENT.CAPTURE.REFUNDED", REFUND),
            [("refund", 500, "USD", "REF1", None, "CAP1")],
            id="a refund as a chargeback",
        ),
        pytest.param(
            event("PAYMENT.CAPTURE.REFUNDED", REFUND | {"id": "REF9"}),
            event("PAYMENT.CAPTURE.COMPLETED", CAPTURE),
            [PAID],
            id="a payment as a refund",
        ),
        pytest.param(
            event("PAYMENT.CAPTURE.COMPLETED", CAPTURE),
            event("PAYMENT.CAPTURE.DECLINED", CAPTURE),
            [],
            id="what moved no money as a payment",
        ),
    ],
)
async def test_what_the_api_says_is_what_counts(
    provider: ProviderApi, adapter: Adapter, forged: dict[str, Any], real: dict[str, Any], facts: list[tuple[Any, ...]]
) -> None:
    provider.answers[EVENT] = real
    assert await what(adapter, forged) == facts


async def test_the_api_is_asked_with_a_token_for_the_apps_credentials(provider: ProviderApi, adapter: Adapter) -> None:
    provider.answers[EVENT] = event("PAYMENT.CAPTURE.COMPLETED", CAPTURE)
    assert await what(adapter, event("PAYMENT.CAPTURE.COMPLETED", {})) == [PAID]
    token, asked = provider.asked
    assert (token.method, token.headers["Authorization"]) == (
        "POST",
        "Basic b3VyIGNsaWVudCBpZDpvdXIgY2xpZW50IHNlY3JldA==",
    )
    assert await token.post() == {"grant_type": "client_credentials"}
    assert (asked.method, asked.headers["Authorization"]) == ("GET", "Bearer A21AA")


@pytest.mark.parametrize(
    ("capture", "facts"),
    [
        ({"status": "PARTIALLY_REFUNDED"}, [PAID]),
        ({"status": "REFUNDED"}, [PAID]),
        ({"status": "DECLINED"}, [("not_completed",)]),
        ({"status": "PENDING"}, [("not_completed",)]),  # 91
        ({"status": "FAILED"}, [("not_completed",)]),
        ({"status": None}, [("unreadable",)]),
        ({"status": 5}, [("unreadable",)]),
        ({"invoice_id": None, "custom_id": "INV-7"}, [("payment", 5000, "USD", "CAP1", "INV-7", None)]),
        ({"invoice_id": None}, [("payment", 5000, "USD", "CAP1", "CAP1", None)]),
        ({"amount": USD | {"currency_code": "JPY"}}, [("payment", 50, "JPY", *PAID[3:])]),
        ({"amount": {"currency_code": "HUF", "value": "50"}}, [("payment", 5000, "HUF", *PAID[3:])]),
        ({"amount": {"currency_code": "JPY", "value": "10.50"}}, [("bad_amount",)]),  # 81
        ({"amount": USD | {"value": "10.005"}}, [("bad_amount",)]),  # 80
        ({"amount": USD | {"value": 50.0}}, [("bad_amount",)]),
        ({"amount": USD | {"value": "-50.00"}}, [("bad_amount",)]),  # 78
        ({"amount": USD | {"value": "0.00"}}, [("bad_amount",)]),  # 88
        ({"amount": USD | {"value": "1e2"}}, [("bad_amount",)]),  # 74
        ({"amount": USD | {"value": "\uff15\uff10"}}, [("bad_amount",)]),  # 77
        ({"amount": USD | {"currency_code": "XYZ"}}, [("unknown_currency",)]),  # 83
        ({"amount": None}, [("unknown_currency",)]),
    ],
)
async def test_fetched_money_is_read_as_strictly(
    provider: ProviderApi, adapter: Adapter, capture: dict[str, Any], facts: list[tuple[Any, ...]]
) -> None:
    provider.answers[EVENT] = event("PAYMENT.CAPTURE.COMPLETED", CAPTURE | capture)
    assert await what(adapter, event("PAYMENT.CAPTURE.COMPLETED", CAPTURE)) == facts


@pytest.mark.parametrize(
    ("refund", "facts"),
    [
        ({"status": "PENDING"}, [("not_completed",)]),  # 91
        ({"status": "CANCELLED"}, [("not_completed",)]),
        ({"links": None}, [("no_invoice",)]),
        ({"links": [SELF]}, [("no_invoice",)]),
        ({"links": {}}, [("unreadable",)]),
        ({"links": [{"rel": "up", "href": 5}, 7, None]}, [("no_invoice",)]),
        ({"links": None, "capture_id": "CAP1"}, [("refund", 500, "USD", "REF1", None, "CAP1")]),
    ],
)
async def test_a_refund_names_its_capture(
    provider: ProviderApi, adapter: Adapter, refund: dict[str, Any], facts: list[tuple[Any, ...]]
) -> None:
    provider.answers[EVENT] = event("PAYMENT.CAPTURE.REFUNDED", REFUND | refund)
    assert await what(adapter, event("PAYMENT.CAPTURE.REFUNDED", REFUND)) == facts


@pytest.mark.parametrize("resource", [None, [], {}, *(CAPTURE | {"id": name} for name in (None, "", 5, "\0"))])
async def test_a_resource_without_a_name_is_unusable(provider: ProviderApi, adapter: Adapter, resource: Any) -> None:
    provider.answers[EVENT] = event("PAYMENT.CAPTURE.COMPLETED", resource)
    assert await what(adapter, event("PAYMENT.CAPTURE.COMPLETED", CAPTURE)) == [("unreadable",)]


@pytest.mark.parametrize("name", [None, "", 5, "\0", []])
async def test_an_event_without_a_name_is_unusable(provider: ProviderApi, adapter: Adapter, name: Any) -> None:
    assert await what(adapter, event("PAYMENT.CAPTURE.COMPLETED", CAPTURE, id=name)) == [("unreadable",)]
    assert {"/v1/oauth2/token"}.issuperset(provider.paths)


async def test_an_event_that_paypal_does_not_know_leaves_nothing_and_may_come_again(
    provider: ProviderApi, adapter: Adapter
) -> None:
    good = event("PAYMENT.CAPTURE.COMPLETED", CAPTURE)
    for unknown in (good, good | {"id": ".."}):
        with pytest.raises(FetchError):
            await what(adapter, unknown)
    assert provider.paths == ["/v1/oauth2/token", EVENT]
    provider.answers[EVENT] = good
    assert await what(adapter, good) == [PAID]


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        *(
            (EVENT, answer)
            for answer in (401, 403, 500, b"junk", {}, event("PAYMENT.CAPTURE.COMPLETED", {}, id="WH-2"))
        ),
        *(("/v1/oauth2/token", answer) for answer in (401, 404, 500, b"junk", {}, TOKEN | {"access_token": None})),
        *(("/v1/oauth2/token", TOKEN | fields) for fields in ({"expires_in": "x"}, {"access_token": "a\nb"})),
    ],
)
async def test_without_an_answer_it_has_to_come_again(
    provider: ProviderApi, adapter: Adapter, path: str, answer: Any
) -> None:
    good = {"/v1/oauth2/token": TOKEN, EVENT: event("PAYMENT.CAPTURE.COMPLETED", CAPTURE)}
    provider.answers |= good | {path: answer}
    with pytest.raises(FetchError):
        await what(adapter, good[EVENT])
    provider.answers |= good
    assert await what(adapter, good[EVENT]) == [PAID]


async def test_a_token_serves_until_it_is_refused(provider: ProviderApi, adapter: Adapter) -> None:
    good = event("PAYMENT.CAPTURE.COMPLETED", CAPTURE)
    provider.answers[EVENT] = good
    for _ in range(3):
        await what(adapter, good)
    assert provider.paths.count("/v1/oauth2/token") == 1
    provider.answers[EVENT] = 401
    with pytest.raises(FetchError):
        await what(adapter, good)
    provider.answers[EVENT] = good
    assert await what(adapter, good) == [PAID]
    assert provider.paths.count("/v1/oauth2/token") == 2


async def test_anothers_capture_is_unusable() -> None:
    body = event("PAYMENT.CAPTURE.COMPLETED", CAPTURE | {"payee": {"merchant_id": "OTHER"}})
    assert await what(example("paypal", account="OURS"), body) == [("wrong_account",)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"client_id": "our client id"},
        {"client_secret": "our client secret"},
        {"client_id": "our client id", "accept_forgeable_signatures": True},
    ],
)
def test_the_weakness_has_to_be_met_or_accepted(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="CRC-32"):
        PayPal.model_validate({"connection": "paypal", "webhook_secrets": ["WH-FIRST-ID"]} | settings)


def test_only_paypal_can_sign() -> None:
    with pytest.raises(CannotSignError):
        example("paypal").sign(b"{}", NOW)


@pytest.mark.parametrize(
    ("age", "valid"), [(0, True), (3 * 86400, True), (5 * 86400, False), (-300, True), (-301, False), (-3e8, False)]
)
async def test_a_transmission_may_be_as_old_as_paypal_tries(age: float, *, valid: bool) -> None:
    adapter = example("paypal")
    assert await adapter.is_authentic(signed(adapter, b"{}", NOW - age)) == valid  # 44


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("PAYPAL-AUTH-ALGO", "SHA1withRSA"),
        ("PAYPAL-AUTH-ALGO", "none"),
        ("PAYPAL-TRANSMISSION-TIME", "2026-09-21 14:13:20"),
        ("PAYPAL-TRANSMISSION-TIME", "2026-13-45T99:13:20Z"),
        ("PAYPAL-TRANSMISSION-TIME", "1790000000"),
        ("PAYPAL-TRANSMISSION-TIME", "٢٠٢٦-09-21T14:13:20Z"),
        ("PAYPAL-TRANSMISSION-ID", "a|b"),
        ("PAYPAL-TRANSMISSION-ID", "another"),  # 46
        ("PAYPAL-TRANSMISSION-SIG", "!!!!"),
        ("PAYPAL-TRANSMISSION-SIG", "AAAA"),
    ],
)
async def test_every_header_counts(header: str, value: str) -> None:
    adapter = example("paypal")
    delivery = signed(adapter, b"{}")
    headers = CIMultiDict(delivery.headers)
    assert await adapter.is_authentic(delivery)
    headers[header] = value
    assert not await adapter.is_authentic(delivery._replace(headers=headers))
    del headers[header]
    assert not await adapter.is_authentic(delivery._replace(headers=headers))


async def test_a_certificate_serves_while_it_is_valid() -> None:
    adapter = example("paypal")
    for end, valid in ((paypal_key.UNTIL, False), (paypal_key.SINCE, True)):
        at = (end + timedelta(days=1)).timestamp()
        delivery = signed(adapter, b"{}", at)._replace(received_at=at)
        assert await adapter.is_authentic(delivery) == valid


PATH = "/v1/notifications/certs/CERT-1"


@pytest.fixture
def asked(provider: ProviderApi, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts that certificates are asked of; the provider answers for all of them."""
    asked: list[str] = []

    def api(url: str) -> Api:
        asked.append(url)
        return Api(provider.url)

    monkeypatch.setattr(paypal_certificates, "Api", api)
    return asked


async def authentic(url: str, **settings: Any) -> bool:
    adapter = example("paypal", **settings)
    delivery = signed(adapter, b"{}")
    headers = CIMultiDict(delivery.headers)
    headers["PAYPAL-CERT-URL"] = url
    answers = [await adapter.is_authentic(Delivery(headers, b"{}", NOW)) for _ in range(2)]
    await adapter.close()
    assert len(set(answers)) == 1
    return answers[0]


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.com" + PATH,
        "https://paypal.com.evil" + PATH,
        "https://api.paypal.com.evil.com" + PATH,
        "https://169.254.169.254" + PATH,
        "https://127.0.0.1" + PATH,
        "https://evilpaypal.com" + PATH,
        "https://api-paypal.com" + PATH,
        "https://paypal.com" + PATH,
        "https://www.paypal.com" + PATH,
        "http://api.paypal.com" + PATH,
        "https://api.paypal.com:8443" + PATH,
        "https://api.paypal.com:443" + PATH,
        "https://api.paypal.com@evil.com" + PATH,
        "https://evil.com@api.paypal.com" + PATH,
        "https://evil.com#@api.paypal.com" + PATH,
        "https://evil.com\\@api.paypal.com" + PATH,
        "https://evil.com?https://api.paypal.com" + PATH,
        "https://api.paypal.com" + PATH + "?x",
        "https://api.paypal.com" + PATH + "#x",
        "https://api.paypal.com" + PATH + "/../../../x",
        "https://api.paypal.com" + PATH + "\n",
        "https://api.paypal.com/v1/notifications/certs/..",
        "https://api.paypal.com/elsewhere",
        "https://api.paypal.com./v1/notifications/certs/CERT-1",
        "https://аpi.paypal.com" + PATH,  # noqa: RUF001 - a Cyrillic letter
        "https://api.sandbox.paypal.com" + PATH,  # on a live connection
        "//api.paypal.com" + PATH,
        "file:///etc/passwd",
        "",
    ],
)
async def test_a_url_that_is_not_paypals_is_not_asked(provider: ProviderApi, asked: list[str], url: str) -> None:
    assert not await authentic(url)  # 52
    assert (asked, provider.asked) == ([], [])


@pytest.mark.parametrize(
    ("mode", "host", "name"),
    [
        ("live", "api.paypal.com", "messageverificationcerts.paypal.com"),
        ("live", "api-m.paypal.com", "messageverificationcerts.paypal.com"),
        ("test", "api.sandbox.paypal.com", "messageverificationcerts.sandbox.paypal.com"),
    ],
)
async def test_a_certificate_is_fetched_once(
    provider: ProviderApi, asked: list[str], mode: str, host: str, name: str
) -> None:
    provider.answers[PATH] = paypal_key.pem(name)
    assert await authentic(f"https://{host}{PATH}", mode=mode)
    assert (asked, provider.paths) == ([f"https://{host}"], [PATH])


def redirect() -> web.Response:
    return web.Response(status=302, headers={"Location": "/v1/notifications/certs/CERT-2"})


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(404, id="404"),
        pytest.param(500, id="500"),
        pytest.param(redirect, id="redirect"),
        pytest.param(b"", id="empty"),
        pytest.param(b"junk", id="junk"),
        pytest.param(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", id="no certificate"),
        pytest.param(paypal_key.pem("evil.com"), id="another name"),
        pytest.param(paypal_key.pem("messageverificationcerts.sandbox.paypal.com"), id="the sandbox's"),
        pytest.param(paypal_key.pem(signer=paypal_key.other_kind_of_key()), id="no RSA key"),
        pytest.param(paypal_key.pem(signer=paypal_key.key(1024)), id="short key"),
    ],
)
async def test_any_other_certificate_is_none(provider: ProviderApi, asked: list[str], answer: Any) -> None:
    provider.answers |= {PATH: answer, "/v1/notifications/certs/CERT-2": paypal_key.pem()}
    assert not await authentic("https://api.paypal.com" + PATH)
    assert asked
    assert set(provider.paths) == {PATH}


async def test_only_so_many_certificates_are_kept(provider: ProviderApi, asked: list[str]) -> None:
    certificates = paypal_certificates.Certificates(live=True)
    for number in range(40):
        path = f"/v1/notifications/certs/CERT-{number}"
        provider.answers[path] = paypal_key.pem()
        assert await certificates.at("https://api.paypal.com" + path) is not None
    assert len(certificates._kept) == paypal_certificates.MAX_KEPT
    await certificates.close()
    assert set(asked) == {"https://api.paypal.com"}


@pytest.mark.parametrize("body", payloads("paypal"))
async def test_real_payloads_give_facts_or_a_named_reason(body: bytes) -> None:
    known = {"payment", "refund", "unreadable", "not_completed", "no_invoice"}
    assert {fact[0] for fact in await what(example("paypal"), body)} <= known

"""Braintree: signatures in forms, challenges, XML, and what each notification means."""

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import pytest
from multidict import CIMultiDict, MultiDict

from service.adapters.adapter import Delivery
from service.adapters.braintree import Braintree
from service.adapters.braintree_signature import _mac
from service.database import DeadLetter, PaymentEvent
from tests.providers import NOW, example, facts, payloads

KEY = "first secret"
TRANSACTION: dict[str, Any] = {
    "id": "t1", "type": "sale", "status": "settled", "amount": "50.00", "currency-iso-code": "EUR",
    "merchant-account-id": "shop", "order-id": "42", "refunded-transaction-id": None,
}  # fmt: skip
CREDIT = TRANSACTION | {
    "id": "t2",
    "type": "credit",
    "amount": "5.00",
    "order-id": None,
    "refunded-transaction-id": "t1",
}
DISPUTE: dict[str, Any] = {
    "id": "d1", "amount": "50.00", "amount-disputed": "45.00", "amount-won": "0.00", "currency-iso-code": "EUR",
    "kind": "chargeback", "status": "open", "transaction": {"id": "t1", "amount": "50.00", "order-id": None},
}  # fmt: skip
WON = DISPUTE | {"status": "won", "amount-won": "40.00"}
PAID = ("t1:payment", "payment", 5000, "EUR", "t1", 42)
REFUNDED = ("t2:refund", "refund", 500, "EUR", "t2", "t1")
SETTLED, DECLINED = "transaction_settled", "transaction_settlement_declined"


def xml(value: object) -> str:
    if isinstance(value, dict):
        return "".join(
            f'<{name} nil="true"/>' if inner is None else
            f'<{name} type="array">{xml(inner)}</{name}>' if isinstance(inner, list) else
            f"<{name}>{xml(inner)}</{name}>"
            for name, inner in value.items()
        )  # fmt: skip
    if isinstance(value, list):
        return "".join(f"<item>{xml(inner)}</item>" for inner in value)
    return str(value)


def form(document: str | bytes, secret: str = KEY, **fields: str) -> bytes:
    payload = base64.encodebytes(document if isinstance(document, bytes) else document.encode()).decode()
    values = {"bt_signature": f"public|{_mac(secret, payload)}", "bt_payload": payload} | fields
    return urlencode(values).encode()


def notification(kind: object, subject: Mapping[str, Any]) -> str:
    timestamp = '<timestamp type="datetime">2026-09-21T13:33:20Z</timestamp>'
    document = {"notification": {"kind": kind, "subject": subject}}
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + xml(document).replace("<kind>", timestamp + "<kind>", 1)


async def what(document: str | bytes, **settings: Any) -> object:
    """The one fact of a notification in short."""
    for fact in await facts(example("braintree", **settings), form(document)):
        if isinstance(fact, PaymentEvent):
            assert fact.occurred_at is not None
            named = fact.invoice_id or fact.invoice_reference or fact.parent_reference
            return fact.event_id, fact.kind, fact.amount, fact.currency, fact.reference, named
        assert isinstance(fact, DeadLetter)
        return fact.reason
    return None


async def authentic(body: bytes, **settings: Any) -> bool:
    return await example("braintree", **settings).is_authentic(Delivery(CIMultiDict(), body, NOW))


PAYLOAD = base64.encodebytes(notification(SETTLED, {"transaction": TRANSACTION}).encode()).decode()
MAC = _mac(KEY, PAYLOAD)


@pytest.mark.parametrize(
    ("fields", "valid"),
    [
        ({}, True),
        ({"bt_signature": f"other|00&public|{MAC}"}, True),
        ({"bt_payload": PAYLOAD.rstrip("\n")}, True),  # its own libraries take it too
        ({"bt_payload": PAYLOAD + "\n"}, False),
        ({"bt_payload": "A" + PAYLOAD[1:]}, False),  # 31
        ({"bt_payload": PAYLOAD[:-5]}, False),  # 34
        ({"bt_payload": ""}, False),
        ({"bt_payload": "é"}, False),
        ({"bt_signature": ""}, False),  # 28
        ({"bt_signature": "public|"}, False),
        ({"bt_signature": f"public|{MAC[:-1]}"}, False),
        ({"bt_signature": f"public|{MAC.upper()}"}, False),
        ({"bt_signature": f"public|{_mac('another key', PAYLOAD)}"}, False),  # 30
        ({"bt_signature": "public|é&public|\ufffd"}, False),  # 35
        ({"bt_signature": "&".join([f"public|{MAC}"] * 10_000)}, False),  # 39
    ],
)
async def test_a_signature_covers_the_payload(fields: dict[str, str], *, valid: bool) -> None:
    assert (
        await authentic(urlencode({"bt_signature": f"public|{MAC}", "bt_payload": PAYLOAD} | fields).encode()) == valid
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"bt_payload=" + PAYLOAD.encode(),  # 27
        urlencode({"bt_signature": f"public|{MAC}"}).encode(),
        urlencode([("bt_signature", f"public|{MAC}")] * 2 + [("bt_payload", PAYLOAD)]).encode(),  # 29
        urlencode([("bt_signature", f"public|{MAC}")] + [("bt_payload", PAYLOAD)] * 2).encode(),
        urlencode({"bt_signature": f"public|{MAC}", "bt_payload": PAYLOAD}).encode() + b"&a=1" * 100,
        urlencode({"bt_signature": f"public|{MAC}", "bt_payload": PAYLOAD}).encode() + b"&\xff=1",
        urlencode({"bt_signature": f"public|{MAC}", "bt_payload": PAYLOAD}).encode() + b"&a=%ff",
        json.dumps({"bt_signature": f"public|{MAC}", "bt_payload": PAYLOAD}).encode(),
    ],
)
async def test_a_form_without_one_of_each_is_not_authentic(body: bytes) -> None:
    assert not await authentic(body)


@pytest.mark.parametrize(
    ("query", "answered"),
    [
        ([("bt_challenge", "20f9f8ed05f77439fe955c977e4c8a53")], True),
        ([("bt_challenge", "a" * 19)], False),
        ([("bt_challenge", "a" * 33)], False),
        ([("bt_challenge", "a" * 20 + "\n")], False),
        ([("bt_challenge", "A" * 20)], False),
        ([("bt_challenge", PAYLOAD)], False),  # or anybody could have a notification signed
        ([("bt_challenge", "a" * 20)] * 2, False),
        ([], False),
    ],
)
def test_a_challenge_is_answered_and_nothing_else(query: list[tuple[str, str]], *, answered: bool) -> None:
    adapter = example("braintree")
    assert isinstance(adapter, Braintree)
    expected = f"public|{_mac(KEY, query[0][1])}" if answered else None
    assert adapter.challenge(MultiDict(query)) == expected


def test_a_mac_is_as_braintree_makes_it() -> None:
    """The value is of its own library, for these very arguments."""
    assert _mac("my_private_key", "20f9f8ed05f77439fe955c977e4c8a53") == "698292e50ed3bea125923d2d036e6947b4b6548a"


@pytest.mark.parametrize(
    ("kind", "subject", "fact"),
    [
        (SETTLED, {"transaction": TRANSACTION}, PAID),
        (SETTLED, {"transaction": TRANSACTION | {"order-id": None}}, (*PAID[:5], "t1")),
        (SETTLED, {"transaction": TRANSACTION | {"order-id": "INV-7"}}, (*PAID[:5], "INV-7")),
        (SETTLED, {"transaction": CREDIT}, REFUNDED),
        (SETTLED, {"transaction": CREDIT | {"order-id": "666"}}, REFUNDED),
        (SETTLED, {"transaction": CREDIT | {"refunded-transaction-id": None}}, "no_invoice"),
        (SETTLED, {"transaction": TRANSACTION | {"amount": "100"}}, (*PAID[:2], 10_000, *PAID[3:])),
        (SETTLED, {"transaction": TRANSACTION | {"amount": "10.005"}}, "bad_amount"),  # 80
        (SETTLED, {"transaction": TRANSACTION | {"amount": "10.50", "currency-iso-code": "JPY"}}, "bad_amount"),  # 81
        (SETTLED, {"transaction": TRANSACTION | {"amount": "-1.00"}}, "bad_amount"),  # 78
        (SETTLED, {"transaction": TRANSACTION | {"amount": "0.00"}}, "bad_amount"),
        (SETTLED, {"transaction": TRANSACTION | {"amount": "1e2"}}, "bad_amount"),  # 74
        (SETTLED, {"transaction": TRANSACTION | {"amount": "9" * 17}}, "bad_amount"),  # 79
        (SETTLED, {"transaction": TRANSACTION | {"amount": None}}, "bad_amount"),
        (SETTLED, {"transaction": TRANSACTION | {"amount": {"a": "1"}}}, "bad_amount"),
        (SETTLED, {"transaction": TRANSACTION | {"currency-iso-code": "XYZ"}}, "unknown_currency"),  # 83
        (SETTLED, {"transaction": TRANSACTION | {"id": None}}, "unreadable"),
        (SETTLED, {"transaction": None}, "unreadable"),
        (SETTLED, {}, "unreadable"),
        (DECLINED, {"transaction": TRANSACTION | {"status-history": [{"status": "settling"}]}}, None),
        (
            DECLINED,
            {"transaction": TRANSACTION | {"status-history": [{"status": "settled"}, {"status": "x"}]}},
            ("t1:payment_reversal", "payment_reversal", *PAID[2:]),
        ),
        (DECLINED, {"transaction": TRANSACTION}, ("t1:payment_reversal", "payment_reversal", *PAID[2:])),
        (DECLINED, {"transaction": CREDIT}, ("t2:refund_reversal", "refund_reversal", *REFUNDED[2:])),
        ("dispute_opened", {"dispute": DISPUTE}, ("d1:chargeback", "chargeback", 4500, "EUR", "d1", "t1")),
        (
            "dispute_opened",
            {"dispute": {name: DISPUTE[name] for name in ("id", "amount", "currency-iso-code", "transaction")}},
            ("d1:chargeback", "chargeback", 5000, "EUR", "d1", "t1"),
        ),
        ("dispute_opened", {"dispute": DISPUTE | {"kind": "retrieval"}}, None),
        ("dispute_opened", {"dispute": DISPUTE | {"transaction": None}}, "unreadable"),
        (
            "dispute_opened",
            {"dispute": DISPUTE | {"kind": "pre_arbitration", "id": "d2"}},
            ("d2:chargeback", "chargeback", 4500, "EUR", "d2", "t1"),
        ),
        (
            "dispute_won",
            {"dispute": WON},
            ("d1:chargeback_reversal", "chargeback_reversal", 4000, "EUR", "d1", "t1"),
        ),
        ("dispute_won", {"dispute": WON | {"kind": "retrieval"}}, None),
        ("dispute_won", {"dispute": WON | {"amount-won": "0.00"}}, "bad_amount"),
        ("dispute_lost", {"dispute": DISPUTE}, None),
        ("dispute_accepted", {"dispute": DISPUTE}, None),
        ("subscription_charged_successfully", {"subscription": {"id": "s1"}}, None),
        ("check", {"check": "true"}, None),
        ("something_new", {}, None),  # 106
        (None, {}, "unreadable"),
    ],
)  # fmt: skip
async def test_a_notification_is_what_it_means(kind: object, subject: dict[str, Any], fact: object) -> None:
    assert await what(notification(kind, subject)) == fact


async def test_a_settlement_that_is_undone_before_it_was_told_undoes_the_same_payment() -> None:
    settled, declined = [
        fact
        for kind in (SETTLED, DECLINED)
        for fact in await facts(example("braintree"), form(notification(kind, {"transaction": TRANSACTION})))
    ]
    assert isinstance(settled, PaymentEvent)
    assert isinstance(declined, PaymentEvent)
    assert (settled.reference, settled.event_id) == (declined.reference, "t1:payment")
    assert declined.event_id != settled.event_id


@pytest.mark.parametrize(
    ("account", "thing", "fact"),
    [
        ("shop", {"transaction": TRANSACTION}, PAID),
        ("other", {"transaction": TRANSACTION}, "wrong_account"),
        ("other", {"transaction": TRANSACTION | {"merchant-account-id": None}}, "wrong_account"),
    ],
)
async def test_anothers_transaction_is_no_money_of_ours(account: str, thing: dict[str, Any], fact: object) -> None:
    assert await what(notification(SETTLED, thing), account=account) == fact
    disputed = DISPUTE | {"merchant-account-id": account}
    assert await what(notification("dispute_opened", {"dispute": disputed}), account="shop") == (
        ("d1:chargeback", "chargeback", 4500, "EUR", "d1", "t1") if account == "shop" else "wrong_account"
    )


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(b"", id="61 empty"),
        pytest.param(b"<notification>", id="not closed"),
        pytest.param(b"<a/><b/>", id="two roots"),
        pytest.param(b"<kind>check</kind>", id="another root"),
        pytest.param(b"<a>\xff</a>", id="62 invalid UTF-8"),
        pytest.param("<a>é</a>".encode("utf-16"), id="62 UTF-16"),
        pytest.param(b'<?xml version="1.0" encoding="latin-1"?><a>\xe9</a>', id="62 Latin-1"),
        pytest.param(b"<a>\0</a>", id="69 NUL"),
        pytest.param(b"<a>&#0;</a>", id="69 NUL by number"),
        pytest.param(b"<a>&#xd800;</a>", id="69 a surrogate by number"),
        pytest.param(b"<a>" * 20_000 + b"</a>" * 20_000, id="65 nested deeply"),
        pytest.param(b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', id="an entity"),
        pytest.param(b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', id="an external document type"),
        pytest.param(b"<a>&b;</a>", id="an entity that nobody declares"),
        pytest.param(
            b"<notification><kind>transaction_settled</kind><kind>check</kind></notification>", id="64 an element twice"
        ),
    ],
)
async def test_strange_xml_is_a_dead_letter(document: bytes) -> None:
    assert await what(document) == "unreadable"


async def test_base64_that_is_none_is_a_dead_letter() -> None:
    for payload in ("A", "é", "!"):
        [letter] = await facts(example("braintree"), form("", bt_payload=payload))
        assert isinstance(letter, DeadLetter)
        assert letter.reason == "unreadable"


@pytest.mark.parametrize("body", payloads("braintree"))
async def test_real_payloads_give_facts_or_a_named_reason(body: bytes) -> None:
    sent = json.loads(body)
    assert not await authentic(urlencode(sent).encode())
    for fact in await facts(example("braintree"), urlencode(sent).encode()):
        assert isinstance(fact, PaymentEvent) or getattr(fact, "reason", None) in {"no_invoice", "bad_amount"}

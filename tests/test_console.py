"""The console over real HTTP and a real database: who gets in, what they see and do, and what is recorded."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service import admin, embedded, migrate, server
from service.console import access, pages, watcher
from service.console.render import amount, body, chart, duration
from service.database import PaymentEvent, Session
from service.environment import SettingsError
from service.settings import Settings, from_environment
from service.text import printable
from tests import calls
from tests.calls import Event
from tests.conftest import Connection
from tests.console import ALICE, BOB, TOKENS, Browser, browser, opened, operator_url, text_of
from tests.http_service import Process, free_port
from tests.sessions import until
from tests.test_listener import listening

HOSTILE = "</pre><script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x1b[31m\u202egpj.exe\u2066"
ESCAPED = "&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;"


@pytest.fixture
async def console(database_url: str, db: Connection) -> AsyncIterator[Browser]:
    """Alice, who may act, over a login of the operator role; invoices 1 and 2, and dead letter 1 of event e1."""
    await calls.add_invoice(db, 1)
    await calls.add_invoice(db, 2, currency="EUR")
    await calls.apply(
        db,
        Event("e1", 1, 100, currency="EUR", connection="stripe", reference="pi_1", body=b'{"secret": "body of e1"}'),
        park=True,
    )
    async with opened(await operator_url(database_url, db)) as one:
        assert await one.sign_in() == 303
        yield one


async def recorded(db: Connection) -> list[tuple[object, ...]]:
    return await calls.rows_of(db, "select actor, action, dead_letter_id, note from operator_actions order by id")


# Who gets in


async def test_without_tokens_there_is_no_console(database_url: str) -> None:
    port, stop = free_port(), asyncio.Event()
    settings = Settings(database_url=database_url, allow_unsigned=True, port=0, admin_port=port)
    started = asyncio.Event()
    task = asyncio.create_task(server.serve(settings, stop, started.set))
    await started.wait()
    async with browser(f"http://127.0.0.1:{port}") as one:
        assert (await one.get("/docs"))[0] == 200
        assert [(await one.get(path))[0] for path in ("/console", "/console/dead", "/console/static/console.js")] == [
            404
        ] * 3
    stop.set()
    await task


async def test_without_tokens_this_machine_itself_needs_none_and_acts_as_its_user(
    database_url: str, db: Connection
) -> None:
    await db.execute("select store_dead_letter('stripe', 'unreadable', 'why', '\\x00')")
    async with opened(database_url, tokens=None, local_operator="root") as one:
        form = {"csrf": await one.csrf("/console/dead/1")}
        assert (await one.post("/console/dead/1/dismiss", form, Origin="http://evil.example"))[0] == 403
        assert await recorded(db) == []
        assert (await one.post("/console/dead/1/dismiss", form))[0] == 303
        assert await recorded(db) == [("root", "dismissed", 1, None)]
        for headers in (
            {"Host": "pay.example"},
            {"Host": "127.0.0.1.evil.example"},
            {"X-Forwarded-For": "10.1.2.3"},
            {"Forwarded": "for=10.1.2.3"},
            {"Via": "1.1 tunnel"},
        ):
            status, page = await one.get("/console", **headers)
            assert status == 403
            assert "OPERATOR_TOKENS" in page


async def test_everything_on_one_machine_has_a_console_of_its_own(database_url: str) -> None:
    process = Process("service", database_url)
    async with aiohttp.ClientSession() as session:
        await process.up(session)
    async with browser(f"http://127.0.0.1:{process.admin_port}") as one:
        assert (await one.get("/console"))[0] == 200
        assert (await one.get("/console", **{"X-Forwarded-For": "10.1.2.3"}))[0] == 403
    _, said = await process.end()
    assert f"http://127.0.0.1:{process.admin_port}/console" in said


async def test_with_tokens_this_machine_needs_one_too(database_url: str) -> None:
    async with opened(database_url, local_operator="root") as one:
        assert (await one.get("/console"))[0] == 401


@pytest.mark.parametrize(
    "tokens",
    ["", "alice", f"alice:{'a' * 23}", f"alice:{'a' * 32}:write", f"alice:{'a' * 32},alice:{'b' * 32}",
     f"alice:{'a' * 32},bob:{'a' * 32}", f"ali ce:{'a' * 32}", f"alice:{'a' * 32},", f"alice:{'ä' * 32}"],
)  # fmt: skip
def test_malformed_tokens_stop_the_start_with_the_settings_name_and_not_with_the_token(tokens: str) -> None:
    with pytest.raises(SettingsError, match="OPERATOR_TOKENS: expected name:token") as raised:
        from_environment({"OPERATOR_TOKENS": tokens})
    assert "aaaa" not in str(raised.value)


def test_tokens_may_stand_in_a_file_and_show_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{TOKENS}\n")
    settings = from_environment({"OPERATOR_TOKENS_FILE": str(file)})
    assert [(one.name, one.may_act) for one in settings.operator_tokens] == [("alice", True), ("bob", False)]
    assert ALICE not in repr(settings.operator_tokens)
    assert "alice" not in repr(settings)


@pytest.mark.parametrize("path", ["/console", "/console/dead", "/console/event/1", "/console/search?q=e1"])
async def test_without_a_session_every_page_is_the_sign_in_page(console: Browser, path: str) -> None:
    async with browser(console.url) as other:
        status, page = await other.get(path)
        assert (status, "Your operator token" in page, "e1 " in page) == (401, True, False)
        assert (await other.post("/console/dead/1/dismiss", {}))[0] == 401
        assert (await other.get("/console/events"))[0] == 401


@pytest.mark.parametrize("token", ["", "alice", f"alice:{ALICE}", ALICE[:-1], "\udcff", "x" * 5000])
async def test_a_wrong_token_is_refused(console: Browser, token: str) -> None:
    async with browser(console.url) as other:
        assert await other.sign_in(token.encode("utf-8", "surrogateescape").decode("latin-1")) == 401
        assert (await other.get("/console"))[0] == 401


async def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(console: Browser) -> None:
    async with browser(console.url) as other:
        await other.sign_in()
        flags = other.headers["Set-Cookie"].lower()
        assert all(flag in flags for flag in ("httponly", "samesite=strict", "path=/console", "max-age=43200"))
        assert "secure" not in flags
        await other.sign_in(**{"X-Forwarded-Proto": "https"})
        assert "secure" in other.headers["Set-Cookie"].lower()


async def test_signing_out_ends_the_session_in_the_server(console: Browser) -> None:
    [cookie] = console.session.cookie_jar
    header = f"{cookie.key}={cookie.value}"
    assert (await console.act("/console/sign-out"))[0] == 303
    async with browser(console.url) as other:
        assert (await other.get("/console", Cookie=header))[0] == 401


async def test_a_session_ends_by_itself(console: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "SESSION_SECONDS", 0.2)
    async with browser(console.url) as other:
        await other.sign_in()
        assert (await other.get("/console"))[0] == 200
        await asyncio.sleep(0.3)
        assert (await other.get("/console"))[0] == 401


async def test_sessions_are_bounded(console: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "SESSIONS", 3)
    for _ in range(3):
        async with browser(console.url) as other:
            assert await other.sign_in() == 303
    assert (await console.get("/console"))[0] == 401


async def test_after_ten_wrong_tokens_an_address_waits_and_others_do_not(
    console: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with browser(console.url, "127.0.0.2") as guesser, browser(console.url, "127.0.0.3") as other:
        assert [await guesser.sign_in("wrong") for _ in range(11)] == [401] * 10 + [429]
        assert await guesser.sign_in() == 429
        assert 50 < int(guesser.headers["Retry-After"]) <= 60
        assert await other.sign_in() == 303
        monkeypatch.setattr(access, "WINDOW", 0)
        assert await guesser.sign_in() == 303


async def test_the_addresses_that_are_counted_are_bounded(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "ADDRESSES", 5)
    one = pages.Console(from_environment({"DATABASE_URL": database_url, "OPERATOR_TOKENS": TOKENS}), None)
    runner = await admin.start(Settings(database_url=database_url, admin_port=0), one.routes())
    for number in range(10, 30):
        async with browser(f"http://127.0.0.1:{runner.addresses[0][1]}", f"127.0.0.{number}") as guesser:
            assert await guesser.sign_in("wrong") == 401
    assert len(one._access._refused) == 5
    await one.close()
    await runner.cleanup()


async def test_sign_in_leads_back_to_the_page_and_to_no_other_site(console: Browser) -> None:
    for to, place in (
        ("/console/invoice/1", "/console/invoice/1"),
        ("/console/search?q=e1&x=%20", "/console/search?q=e1&x=%20"),
        ("//evil.example", "/console"),
        ("https://evil.example/console", "/console"),
        ("/console.evil", "/console"),
        ("/console/\\evil", "/console"),
    ):
        await console.post("/console/sign-in", {"token": ALICE, "next": to})
        assert console.headers["Location"] == place
    assert (await console.post("/console/sign-in", {"token": ALICE}, Origin="http://evil.example"))[0] == 403


async def test_no_form_of_a_stranger_keeps_the_server_from_work(console: Browser) -> None:
    # Of all charsets, Python decodes some in quadratic time: this one would take a minute.
    text = b"a" * 400_000 + b"-" + b"a9" * 200_000
    part = b'Content-Disposition: form-data; name="token"\r\nContent-Type: text/plain; charset=punycode\r\n\r\n'
    for content_type, data, status in (
        ("application/x-www-form-urlencoded;charset=punycode", b"token=" + text, 415),
        ("multipart/form-data; boundary=b", b"--b\r\n" + part + text + b"\r\n--b--\r\n", 415),
        ("text/plain", b"token=x", 415),
    ):
        for headers, refused in (({}, status), ({"Sec-Fetch-Site": "cross-site"}, 403)):
            sent = {"Content-Type": content_type} | headers
            async with (
                asyncio.timeout(5),
                console.session.post(console.url + "/console/sign-in", data=data, headers=sent) as answer,
            ):
                assert answer.status == refused


# What every answer carries


async def test_every_answer_forbids_inline_script_framing_and_caching(console: Browser) -> None:
    paths = [
        "/console", "/console/dead", "/console/dead/1", "/console/dead/999", "/console/event/1", "/console/invoice/1",
        "/console/invoice/999", "/console/search?q=e1", "/console/actions", "/console/static/console.js",
        "/console/static/console.css", "/console/dead?after=x",
    ]  # fmt: skip
    async with browser(console.url) as stranger:
        for path in paths:
            for who in (console, stranger):
                _, page = await who.get(path)
                policy = who.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
                assert "unsafe" not in policy
                assert "frame-ancestors 'none'" in policy
                assert (who.headers["X-Content-Type-Options"], who.headers["Cache-Control"]) == ("nosniff", "no-store")
                assert who.headers["Referrer-Policy"] == "same-origin"
                if "static" not in path:
                    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src=)|javascript:|https?://[^1]", page)
        assert (await stranger.get("/console/static/..%2faccess.py"))[0] == 404


# What is seen


async def test_the_overview_says_what_waits_what_is_dead_and_who_listens(console: Browser) -> None:
    said = text_of((await console.get("/console"))[1])
    assert "1 dead letter needs a person" in said
    assert "No listener is alive" in said
    assert "currency_mismatch 1 1" in said
    assert "stripe e1 payment 1.00 EUR 1 dead" in said


async def test_the_overview_says_when_an_event_is_late(console: Browser, db: Connection) -> None:
    await calls.enqueue(db, Event("e2", 1, 100))
    await db.execute("update payment_queue set next_attempt_at = now() - interval '14 s'")
    assert "has been due" not in (await console.get("/console"))[1]
    await db.execute("update payment_queue set next_attempt_at = now() - interval '100 s'")
    await asyncio.sleep(watcher.SPACING)
    async with asyncio.timeout(20):
        while "An event has been due for 1 min" not in (await console.get("/console"))[1]:
            await asyncio.sleep(0.1)


async def test_a_dead_letter_shows_its_event_its_reason_and_its_body(console: Browser) -> None:
    said = text_of((await console.get("/console/dead/1"))[1])
    assert "Reason currency_mismatch" in said
    assert "payment of 1.00 EUR, invoice 1" in said
    assert '{"secret": "body of e1"}' in said
    assert (await console.get("/console/dead/2"))[0] == 404


async def test_an_invoice_shows_its_names_its_timeline_and_its_balance(console: Browser, db: Connection) -> None:
    await calls.add_reference(db, "stripe", "INV-1", 1)
    await calls.apply(db, Event("e2", 1, 4000))
    await calls.apply(db, Event("e3", 1, 7000, reference="pay_3"))
    _, page = await console.get("/console/invoice/1")
    said = text_of(page)
    assert "Status paid Amount 100.00 USD Paid 110.00 USD" in said
    assert "Overpaid 10.00 USD" in said
    assert "Other names stripe INV-1" in said
    assert "payment 70.00 USD 110.00 USD posted pay_3" in said
    assert "<polyline" in page
    assert (await console.get("/console/invoice/77"))[0] == 404


@pytest.mark.parametrize("text", ["e1", "e2", "INV-1", "pay_2", "1"])
async def test_search_finds_by_event_id_reference_and_invoice(console: Browser, db: Connection, text: str) -> None:
    await calls.add_reference(db, "stripe", "INV-1", 1)
    await calls.apply(db, Event("e2", 1, 4000, reference="pay_2"))
    _, page = await console.get(f"/console/search?q={text}")
    assert re.search(r'href="/console/(event|invoice)/\d+"', page)
    assert not re.search(r'href="/console/(event|invoice)/\d+"', (await console.get("/console/search?q=%00nothing"))[1])


async def test_search_finds_a_dead_letter_that_is_no_event(console: Browser, db: Connection) -> None:
    await db.execute("select store_dead_letter('adyen', 'bad_amount', 'why', '\\x00', null, '8836')")
    assert 'href="/console/dead/2"' in (await console.get("/console/search?q=8836"))[1]


async def test_a_read_only_token_sees_no_body_and_changes_nothing(console: Browser, db: Connection) -> None:
    async with browser(console.url) as bob:
        assert await bob.sign_in(BOB) == 303
        for path in ("/console/dead/1", "/console/event/1", "/console/dead?reason=currency_mismatch"):
            status, page = await bob.get(path)
            assert (status, "body of e1" in page, "<button>Retry" in page) == (200, False, False)
            assert ("body of e1" in (await console.get(path))[1]) == (not path.startswith("/console/dead?"))
        for path in ("/console/dead/1/retry", "/console/dead/1/dismiss", "/console/dead/1/reassign", "/console/retry"):
            status, page = await bob.act(path, invoice="2", reason="currency_mismatch")
            assert (status, "may only look" in page) == (403, True)
    assert await recorded(db) == []


async def test_no_page_shows_a_token_or_the_databases_url(console: Browser, database_url: str) -> None:
    for path in ("/console", "/console/dead/1", "/console/actions", "/console/event/1"):
        _, page = await console.get(path)
        assert ALICE not in page
        assert BOB not in page
        assert database_url.partition("//")[2][:20] not in page


async def test_what_an_event_carries_is_shown_as_text_wherever_it_is_shown(
    console: Browser, database_url: str, db: Connection
) -> None:
    event = PaymentEvent(HOSTILE, 2, 100, connection="stripe", currency="USD", reference=HOSTILE, body=HOSTILE.encode())
    async with Session(database_url, "test") as session:
        await session.apply([event], park=True)
        await session.apply([event._replace(event_id="posted", currency="EUR")])
    await calls.add_reference(db, "stripe", HOSTILE, 2)
    assert (await console.act("/console/dead/1/dismiss", note=HOSTILE))[0] == 303
    for path in (
        "/console", "/console/dead", "/console/dead/2", "/console/event/2", "/console/invoice/2",
        "/console/actions", "/console/dead/1",
    ):  # fmt: skip
        _, page = await console.get(path)
        assert ESCAPED in page, path
        assert "alert(1)</script>" not in page
        assert "<img" not in page
        assert not re.search("[\x1b\u202e\u2066]", page)
        assert r"\x1b[31m\u202egpj.exe\u2066" in page
    async with console.session.get(f"{console.url}/console/search", params={"q": HOSTILE}) as response:
        page = await response.text()
    assert page.count(ESCAPED) >= 3
    assert "<img" not in page


def test_what_cannot_be_seen_is_escaped() -> None:
    assert (
        printable("a\u202eb\u200bc\x00\x9f\u2028\ufeff\udcff é 漢")
        == "a\\u202eb\\u200bc\\x00\\x9f\\u2028\\ufeff\\udcff é 漢"
    )
    assert body(b"{\n\t<\xff\x1b>}\r\n") == "{\n\t&lt;\\xff\\x1b&gt;}\\r\n"


def test_amounts_are_in_the_currencys_own_decimals() -> None:
    assert [amount(12345, code) for code in ("USD", "JPY", "KWD", None, "ZZZ")] == [
        "123.45 USD", "12345 JPY", "12.345 KWD", "12345 minor units", "12345 minor units",
    ]  # fmt: skip
    assert amount(-5, "EUR") == "-0.05 EUR"


def test_a_chart_goes_through_every_balance_and_below_zero_where_they_do() -> None:
    rows: list[dict[str, Any]] = [{"balance": Decimal(50)}, {"balance": None}, {"balance": Decimal(-50)}]
    drawn = chart(rows, 100)
    assert drawn["points"] == "0.0,106.7 200.0,106.7 200.0,53.3 400.0,53.3 400.0,160.0 600.0,160.0"
    assert (drawn["owed"], drawn["zero"]) == (0.0, 106.7)


def test_a_length_of_time_is_told_in_its_two_greatest_units() -> None:
    assert [duration(timedelta(seconds=seconds)) for seconds in (-1, 0.9, 59, 60, 61, 3660, 90_000, 172_800)] == [
        "-1 s", "0 s", "59 s", "1 min", "1 min 1 s", "1 h 1 min", "1 d 1 h", "2 d",
    ]  # fmt: skip


# Many dead letters


async def test_dead_letters_come_in_pages_each_letter_once(console: Browser, db: Connection) -> None:
    await db.execute(
        "select store_dead_letter('stripe', case when n % 3 = 0 then 'odd' else 'unreadable' end, 'why', int4send(n))"
        " from generate_series(1, 3000) n"
    )
    for first, expected in (("/console/dead", 3001), ("/console/dead?reason=odd", 1000)):
        seen, path = [], first
        while True:
            _, page = await console.get(path)
            seen += re.findall(r'href="/console/dead/(\d+)"', page)
            if (following := re.search(r'href="([^"]+)" rel="next"', page)) is None:
                break
            path = following[1].replace("&amp;", "&")
        assert len(seen) == len(set(seen)) == expected


# What is done, and its record


async def test_each_action_is_recorded_under_the_tokens_name(console: Browser, db: Connection) -> None:
    assert (await console.act("/console/dead/1/dismiss", note="not ours"))[0] == 303
    assert (await console.act("/console/dead/1/retry", note=" "))[0] == 303
    assert await recorded(db) == [("alice", "dismissed", 1, "not ours"), ("alice", "retried", 1, None)]
    said = text_of((await console.get("/console/actions"))[1])
    assert "alice retried 1 stripe e1" in said
    assert "alice dismissed 1 stripe e1 not ours" in said


async def test_a_retry_shows_what_became_of_the_event(console: Browser, database_url: str, db: Connection) -> None:
    await db.execute("update invoices set currency = 'EUR' where id = 1")
    async with listening(database_url):
        assert (await console.act("/console/dead/1/retry"))[0] == 303
        _, page = await console.get(console.headers["Location"])
    assert "retried" in page
    assert '<span class="state processed">posted</span>' in page
    assert await calls.balance(db, 1) == ("partially_paid", 100, 0, 0)


async def test_an_event_is_given_to_another_invoice(console: Browser, database_url: str, db: Connection) -> None:
    for invoice, said in (("", "invoice: expected a number"), ("x", "invoice: expected"), ("77", "no such invoice")):
        status, page = await console.act("/console/dead/1/reassign", invoice=invoice)
        assert status in {400, 409}
        assert said in page
    assert await recorded(db) == []
    async with listening(database_url):
        assert (await console.act("/console/dead/1/reassign", invoice="2", note="typo"))[0] == 303
    assert await recorded(db) == [("alice", "reassigned", 1, "to invoice 2: typo")]
    assert (await calls.balance(db, 2))[1] == 100


async def test_all_of_a_reason_are_retried_at_once(console: Browser, db: Connection) -> None:
    for number in range(3):
        await calls.apply(db, Event(f"m{number}", 1, 100, currency="EUR"), park=True)
    assert (await console.act("/console/retry", reason="other"))[0] == 303
    assert await recorded(db) == []
    assert (await console.act("/console/retry", reason="currency_mismatch", note="mended"))[0] == 303
    assert "4 of them are back in the queue" in (await console.get(console.headers["Location"]))[1]
    assert await recorded(db) == [("alice", "retried", number, "mended") for number in (1, 2, 3, 4)]


async def test_what_is_not_open_any_more_is_said_so(console: Browser, db: Connection) -> None:
    await console.act("/console/dead/1/retry")
    status, page = await console.act("/console/dead/1/retry")
    assert (status, "not open any more" in page) == (409, True)
    assert (await console.act("/console/dead/1/dismiss", note="x" * 501))[0] == 400
    assert len(await recorded(db)) == 1


async def test_a_form_that_is_not_ours_does_nothing(console: Browser, db: Connection) -> None:
    csrf = await console.csrf()
    async with browser(console.url) as other:
        await other.sign_in()
        foreign = await other.csrf()
    path = "/console/dead/1/dismiss"
    for fields in ({}, {"csrf": ""}, {"csrf": "ä"}, {"csrf": csrf[:-1]}, {"csrf": foreign}):
        assert (await console.post(path, fields))[0] == 403
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert (await console.post(path, {"csrf": csrf}, **headers))[0] == 403
    assert (await console.get(path))[0] == 405
    assert (await console.post(path, {"csrf": csrf}, **{"Content-Type": "multipart/form-data"}))[0] == 415
    assert await recorded(db) == []
    assert (await console.post(path, {"csrf": csrf}))[0] == 303


# Live


@contextlib.asynccontextmanager
async def stream(one: Browser) -> AsyncIterator[asyncio.Queue[str]]:
    """The server-sent events of a page, as they come; the last is empty."""
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def read() -> None:
        async with one.session.get(f"{one.url}/console/events") as response:
            assert response.content_type == "text/event-stream"
            message = ""
            async for line in response.content:
                if line == b"\n":
                    heard.put_nowait(message)
                    message = ""
                else:
                    assert line.startswith(b"data: ")
                    message += line[6:].decode()
        heard.put_nowait("")

    task = asyncio.create_task(read())
    try:
        yield heard
    finally:
        task.cancel()


async def test_a_payment_shows_on_every_open_page_soon_after_it_came(
    console: Browser, database_url: str, db: Connection
) -> None:
    async with browser(console.url) as bob, listening(database_url):
        assert await bob.sign_in(BOB) == 303
        async with stream(console) as one, stream(bob) as two:
            await one.get()
            await two.get()
            await calls.enqueue(db, Event("live-1", 1, 4200))
            async with asyncio.timeout(10):
                while "live-1" not in (message := await one.get()):
                    pass
                while "live-1" not in (other := await two.get()):
                    pass
    assert other == message


async def test_a_notify_is_heard_before_the_poll(
    database_url: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "POLL", 60)
    await calls.add_invoice(db, 1)
    url = await operator_url(database_url, db)
    async with opened(url, POLL_INTERVAL="60") as one, listening(database_url, poll_interval=60):
        await one.sign_in()
        async with stream(one) as heard, asyncio.timeout(10):
            await heard.get()
            await asyncio.sleep(2)  # the listener sleeps, and what it said at its start is over
            while not heard.empty():
                heard.get_nowait()
            await calls.enqueue(db, Event("heard", 1, 100))
            while "heard" not in await heard.get():
                pass


async def test_nothing_is_asked_while_nobody_watches_and_once_a_look_whoever_does(
    console: Browser, db: Connection
) -> None:
    async def watching() -> int:
        return int(
            await db.fetchval(
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and application_name = 'payment_webhooks console watcher'"
            )
        )

    async def gone() -> bool:
        return await watching() == 0

    async with stream(console) as one, stream(console) as two:
        await one.get()
        await two.get()
        assert await watching() == 1
    await until(gone)


async def test_a_stream_ends_with_its_session(console: Browser) -> None:
    async with stream(console) as heard:
        await heard.get()
        await console.act("/console/sign-out")
        async with asyncio.timeout(10):
            while await heard.get():
                pass


async def test_the_server_ends_at_once_although_pages_are_live(database_url: str) -> None:
    port, stop, started = free_port(), asyncio.Event(), asyncio.Event()
    environment = {"DATABASE_URL": database_url, "OPERATOR_TOKENS": TOKENS, "ADMIN_PORT": str(port), "PORT": "0"}
    settings = from_environment(environment | {"ALLOW_UNSIGNED": "true"})
    task = asyncio.create_task(server.serve(settings, stop, started.set))
    await started.wait()
    async with browser(f"http://127.0.0.1:{port}") as one:
        await one.sign_in()
        async with stream(one) as heard:
            await heard.get()
            stop.set()
            async with asyncio.timeout(5):
                await task
                while await heard.get():
                    pass


async def test_a_browser_that_takes_nothing_is_let_go(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "SLOW", 0.3)
    one = pages.Console(from_environment({"DATABASE_URL": database_url}), "root")
    one._watcher._render = lambda _: b": " + b"x" * 20_000_000 + b"\n\n"
    runner = await admin.start(Settings(database_url=database_url, admin_port=0), one.routes())
    port = runner.addresses[0][1]
    with socket.create_connection(("127.0.0.1", port)) as deaf:
        deaf.sendall(b"GET /console/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

        async def there() -> bool:
            return one._streams == 1

        async def gone() -> bool:
            return one._streams == 0

        await until(there)
        await until(gone)
    await one.close()
    await runner.cleanup()


async def test_only_so_many_pages_are_live(console: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "STREAMS", 1)
    async with stream(console) as heard:
        await heard.get()
        assert (await console.get("/console/events"))[0] == 503


async def test_without_a_database_it_says_so_and_recovers_by_itself(tmp_path: Path, bin_dir: Path | None) -> None:
    postgres = embedded.start(tmp_path / "pg", bin_dir=bin_dir)
    await migrate.up(postgres.url)
    async with opened(postgres.url) as console:
        await console.sign_in()
        async with stream(console) as heard:
            assert "Nothing needs" not in await heard.get()
            postgres.stop()
            while "cannot be asked" not in await heard.get():
                pass
            status, page = await console.get("/console/dead")
            assert (status, "Look again" in page) == (503, True)
            assert "cannot be asked" in (await console.get("/console"))[1]
            with embedded.start(tmp_path / "pg", bin_dir=bin_dir):
                while "cannot be asked" in await heard.get():
                    pass
                assert (await console.get("/console/dead"))[0] == 200


async def test_a_login_that_is_no_operators_is_told_which_role_it_needs(database_url: str, db: Connection) -> None:
    role = await db.fetchval("select role_name('server')")
    async with opened(f"{database_url}&options=-crole%3D{role}") as console:
        await console.sign_in()
        assert "login of the operator role" in (await console.get("/console"))[1]
        status, page = await console.get("/console/dead")
        assert (status, "OPERATOR_DATABASE_URL" in page) == (409, True)

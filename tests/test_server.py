"""The plain endpoints over real HTTP and a real PostgreSQL. Numbers are rows of the list of hostile input."""

import asyncio
import io
import json
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from service import embedded, migrate
from tests import sessions
from tests.calls import add_invoice, counts, whereabouts
from tests.conftest import Connection
from tests.http_service import JSON, KEY, OTHER_KEY, Client, Process, serving, signed

SYNC = "/webhooks-sync/payments"
QUEUE = "/webhooks/payments"
EVENT: dict[str, Any] = {"event_id": "event_12345", "invoice_id": 1, "amount": 5000}
BODY = json.dumps(EVENT).encode()
SECRETS = {"webhook_secrets": (OTHER_KEY, KEY), "allow_unsigned": False}


@pytest.fixture
async def client(database_url: str, db: Connection) -> AsyncIterator[Client]:
    """A server that takes unsigned events, with invoice 1 over 100.00 USD."""
    await add_invoice(db, 1)
    async with serving(database_url) as client:
        yield client


@pytest.fixture
async def strict(database_url: str, db: Connection) -> AsyncIterator[Client]:
    """A server that wants signatures by one of two keys."""
    await add_invoice(db, 1)
    async with serving(database_url, **SECRETS) as client:
        yield client


async def test_the_synchronous_endpoint_answers_with_the_invoice_as_it_is_after_the_commit(client: Client) -> None:
    assert (await client.post(SYNC, EVENT))[:2] == (
        200,
        EVENT
        | {"outcome": "applied", "status": "partially_paid", "amount": 10_000, "currency": "USD", "paid": 5000}
        | {"refunded": 0, "charged_back": 0, "due": 5000, "overpaid": 0},
    )
    assert await client.apply("event_12345", 1, 5000) == (200, "duplicate")
    assert await client.apply("event_2", 1, 5000) == (200, "applied")


async def test_the_queueing_endpoint_stores_the_event_and_its_body(client: Client, db: Connection) -> None:
    assert (await client.post(QUEUE, BODY))[0] == 202
    assert await client.enqueue("event_12345", 1, 5000) == (200, "duplicate")
    assert await whereabouts(db, "event_12345") == ("pending", "queued")
    assert await db.fetchval("select body from deliveries") == BODY
    assert await client.apply("event_12345", 1, 5000) == (200, "applied")


async def test_every_field_reaches_the_event(client: Client, db: Connection) -> None:
    await client.apply("e1", 1, 700, currency="USD", reference="pi_1", occurred_at="2026-01-02T03:04:05+01:00")
    row = await db.fetchrow("select currency, reference, occurred_at at time zone 'utc' from payment_events")
    assert row is not None
    assert [str(value) for value in row] == ["USD", "pi_1", "2026-01-02 02:04:05"]
    assert await client.apply("e2", 1, 700, kind="payment_reversal", reference="pi_1") == (200, "applied")
    assert await client.apply("e3", 1, 700, kind="refund_reversal", reference="re_1") == (202, "parked")


@pytest.mark.parametrize("path", [SYNC, QUEUE])
@pytest.mark.parametrize(
    ("event", "answer"),
    [
        ({"invoice_id": 99}, (404, "unknown-invoice")),
        ({"invoice_id": -(2**63)}, (404, "unknown-invoice")),
        ({"currency": "EUR"}, (422, "currency-mismatch")),
        ({"currency": "usd"}, (400, "invalid-fields")),
        ({"amount": 0}, (422, "out-of-range")),
        ({"amount": -5}, (422, "out-of-range")),
        ({"amount": 2**63}, (422, "out-of-range")),
        ({"amount": 100.5}, (400, "invalid-fields")),
        ({"amount": True}, (400, "invalid-fields")),
        ({"amount": "5000"}, (400, "invalid-fields")),
        ({"amount": "\uff11\uff12"}, (400, "invalid-fields")),
        ({"amount": None}, (400, "invalid-fields")),
        ({"kind": "gift"}, (400, "invalid-fields")),
        ({"kind": "refund_reversal"}, (400, "invalid-fields")),
        ({"event_id": ""}, (400, "invalid-fields")),
        ({"event_id": "x" * 256}, (400, "invalid-fields")),
        ({"event_id": "a\0b"}, (400, "invalid-fields")),
        ({"occurred_at": 5}, (400, "invalid-fields")),
        ({"occurred_at": "yesterday"}, (400, "invalid-fields")),
        ({"occurred_at": "0001-01-01T00:00:00+14:00"}, (400, "invalid-fields")),
        ({"occurred_at": "9999-12-31T23:59:59-14:00"}, (400, "invalid-fields")),
        ({"occurred_at": "0001-01-01T00:00:00Z"}, (400, "invalid-fields")),  # the zero time of Go and .NET
        ({"occurred_at": "9999-12-31T23:59:59.999999Z"}, (400, "invalid-fields")),
    ],
    ids=str,
)
async def test_a_bad_event_is_refused_with_its_reason_and_nothing_is_stored(
    client: Client, db: Connection, path: str, event: dict[str, Any], answer: tuple[int, str]
) -> None:
    status, problem, response = await client.post(path, EVENT | event)
    assert (status, problem["type"].rpartition(":")[2]) == answer
    assert response.content_type == "application/problem+json"
    assert await counts(db, "payment_events", "deliveries", "dead_letters") == [0, 0, 0]


async def test_a_problem_names_all_bad_fields_at_once(client: Client) -> None:
    _, problem, _ = await client.post(SYNC, {"event_id": 7, "amount": 1.5, "kind": "gift"})
    assert [error["pointer"] for error in problem["errors"]] == ["#/event_id", "#/invoice_id", "#/amount", "#/kind"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="61 empty"),
        pytest.param(b'{"event_id": "\xff"}', id="62 invalid UTF-8"),
        pytest.param(BODY.decode().encode("utf-16"), id="62 UTF-16"),
        pytest.param(b"\xef\xbb\xbf" + BODY, id="62 BOM"),
        pytest.param(BODY.replace(b"5000", b"NaN"), id="63 NaN"),
        pytest.param(BODY.replace(b"5000", b"Infinity"), id="63 Infinity"),
        pytest.param(BODY.replace(b"}", b', "amount": 1}'), id="64 duplicate keys"),
        pytest.param(b"[" * 100_000, id="65 nested deeply"),
        pytest.param(BODY.replace(b"5000", b"9" * 5000), id="66 a 5,000-digit integer"),
        pytest.param(b"[1]", id="67 an array"),
        pytest.param(b'"text"', id="67 a string"),
        pytest.param(BODY + b"x", id="68 trailing garbage"),
        pytest.param(BODY.replace(b"event_12345", b"\\ud800"), id="69 lone surrogate"),
        pytest.param(BODY.replace(b"5000", b"100.0"), id="74 100.0"),
        pytest.param(BODY.replace(b"5000", b"1E2"), id="74 1E2"),
    ],
)
async def test_a_body_that_is_not_strict_json_is_refused(client: Client, db: Connection, body: bytes) -> None:
    assert (await client.post(SYNC, body))[0] == 400
    assert await counts(db, "payment_events", "deliveries") == [0, 0]


async def test_odd_text_is_stored_verbatim_and_unknown_fields_are_ignored(client: Client, db: Connection) -> None:
    odd = "'); drop table payments; --<script>\u202e💶\n"
    assert (await client.post(SYNC, EVENT | {"reference": odd, "unknown": {"a": [1]}}))[0] == 200
    assert await db.fetchval("select reference from payments") == odd


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
async def test_another_content_type_is_refused(client: Client, content_type: str) -> None:
    assert (await client.post(SYNC, BODY, {"Content-Type": content_type}))[0] == 415


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        pytest.param(b"GET /webhooks/payments HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, id="1 other method"),
        pytest.param(b"POST /webhooks/payments/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, id="2 slash after"),
        pytest.param(b"POST //webhooks/payments HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, id="2 slash before"),
        pytest.param(b"POST /nope HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, id="4 unknown endpoint"),
        pytest.param(
            b"POST /webhooks/payments HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            id="5 CL with TE",
        ),
        pytest.param(
            b"POST /webhooks/payments HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            400,
            id="6 two lengths",
        ),
        pytest.param(b"POST /webhooks/payments HTTP/1.1\nHost: localhost\n\n", 400, id="7 bare LF"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: localhost\r\nA: b\r\n c\r\n\r\n", 400, id="7 folded header"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: localhost\r\nA: b\0c\r\n\r\n", 400, id="8 NUL"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: localhost\r\nA: b\rc\r\n\r\n", 400, id="8 CR"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: localhost\r\nA : b\r\n\r\n", 400, id="9 space before colon"),
        pytest.param(b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, id="10 two hosts"),
        pytest.param(b"GET /livez HTTP/1.1\r\nA: b\r\n\r\n", 400, id="10 no host"),
        pytest.param(b"GET /livez HTTP/1.1\r\nHost: a\r\nB: " + b"c" * 9000 + b"\r\n\r\n", 400, id="11 long header"),
        pytest.param(b"GET /" + b"c" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="11 long URL"),
        pytest.param(
            b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(200)) + b"\r\n",
            400,
            id="12 many headers",
        ),
        pytest.param(
            b"POST /webhooks/payments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10737418240\r\n\r\n{",
            413,
            id="15 a declared 10 GiB",
        ),
        pytest.param(
            b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            400,
            id="23 websocket upgrade",
        ),
    ],
)
async def test_what_is_no_plain_request_is_refused_and_the_next_request_is_served(
    client: Client, request_head: bytes, status: int
) -> None:
    said = await client.raw(request_head)
    assert said.split(b" ")[1] == str(status).encode(), said
    assert await client.apply("next", 1, 5) == (200, "applied")


async def test_a_percent_encoded_path_is_the_plain_path(client: Client) -> None:  # row 3
    head = b"POST /web%68ooks-sync/payments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    said = await client.raw(head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
    assert said.startswith(b"HTTP/1.1 200")


async def test_a_body_over_the_limit_is_refused_declared_or_chunked(client: Client, db: Connection) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b" " * 4000

    async with client.session.post(client.url + SYNC, data=io.BytesIO(b" " * 1_200_000), headers=JSON) as response:
        assert response.status == 413
    async with client.session.post(client.url + SYNC, data=chunks(), headers=JSON) as response:
        assert response.status == 413
    assert await counts(db, "payment_events") == [0]


async def test_a_body_in_one_byte_chunks_costs_little(client: Client) -> None:  # row 22
    body = BODY + b" " * 20_000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    head = (
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        % SYNC.encode()
    )
    before = time.process_time()
    answer = await client.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert time.process_time() - before < 2  # about 0.1 s, of client and server; quadratic work would take far more


@pytest.mark.parametrize("body", [b"\x1f\x8b\x08\x00", BODY])
async def test_a_compressed_body_or_one_labelled_so_is_refused(client: Client, body: bytes) -> None:  # rows 16 to 18
    assert (await client.post(SYNC, body, JSON | {"Content-Encoding": "gzip"}))[0] == 415


async def test_a_body_cut_short_stores_nothing(client: Client, db: Connection) -> None:  # row 21
    head = b"POST /webhooks-sync/payments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    await client.raw(head + b"Content-Length: 500\r\n\r\n" + BODY, eof=True)
    assert await counts(db, "payment_events") == [0]
    assert await client.apply("next", 1, 5) == (200, "applied")


async def test_slow_headers_and_slow_bodies_are_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.server.BODY_TIMEOUT", 0.3)
    head = b"POST /webhooks-sync/payments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    slow_headers = asyncio.create_task(client.raw(head))
    assert b" 408 " in await client.raw(head + b"Content-Length: 500\r\n\r\n{")
    assert await slow_headers == b""  # closed within 10 s, see client.raw


async def test_a_client_that_leaves_loses_nothing(client: Client, db: Connection) -> None:  # row 24
    head = b"POST /webhooks-sync/payments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
    await writer.drain()
    writer.transport.abort()
    await asyncio.sleep(0.2)
    status, outcome = await client.apply("event_12345", 1, 5000)
    assert (status, outcome in {"applied", "duplicate"}) == (200, True)
    assert await counts(db, "payments") == [1]


async def test_thousands_of_idle_connections_leave_others_served(client: Client) -> None:  # row 25
    idle = [await asyncio.open_connection("127.0.0.1", client.port) for _ in range(1000)]
    try:
        assert await client.apply("event", 1, 5) == (200, "applied")
    finally:
        for _, writer in idle:
            writer.close()


def tampered(**headers: str) -> dict[str, str]:
    return signed(BODY) | {f"webhook-{name}": value for name, value in headers.items()}


SIGNATURE = signed(BODY)["webhook-signature"]


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(JSON, id="27 missing"),
        pytest.param(tampered(signature=""), id="28 empty"),
        pytest.param(signed(BODY, b"x" * 32), id="30 wrong key"),
        pytest.param(signed(BODY.replace(b"5000", b"5001")), id="31 one byte flipped"),
        pytest.param(signed(BODY.replace(b": ", b":")), id="32 re-serialised"),
        pytest.param(signed(BODY + b"\n"), id="33 newline added"),
        pytest.param(tampered(signature=SIGNATURE[:-8]), id="34 cut short"),
        pytest.param(tampered(signature="v1,é" + SIGNATURE[4:]), id="35 non-ASCII"),
        pytest.param(tampered(signature="v1,!!!!"), id="36 junk base64"),
        pytest.param(tampered(signature=" ".join(["v1,AAAA"] * 900)), id="39 many signatures"),
        pytest.param(tampered(signature=SIGNATURE.replace("v1,", "v0,")), id="40 unknown scheme"),
        pytest.param(tampered(signature=SIGNATURE.replace("v1,", "v1a,")), id="41 v1a"),
        pytest.param(signed(BODY, at=1_000_000), id="43 old"),
        pytest.param(signed(BODY, at=4_000_000_000), id="44 years ahead"),
        pytest.param(tampered(timestamp="1e9"), id="45 1e9"),
        pytest.param(tampered(timestamp="+1700000000"), id="45 plus"),
        pytest.param(tampered(timestamp="٠١٢٣"), id="45 Arabic digits"),
        pytest.param(tampered(timestamp="9" * 400), id="45 400 digits"),
        pytest.param(tampered(id="msg_2"), id="46 changed webhook-id"),
        pytest.param(signed(BODY, b""), id="48 empty key"),
    ],
)
async def test_any_doubt_about_a_signature_is_the_same_401_and_nothing_is_stored(
    strict: Client, db: Connection, headers: dict[str, str]
) -> None:
    status, problem, _ = await strict.post(SYNC, BODY, headers)
    assert status == 401
    assert problem == (await strict.post(SYNC, b"not json", JSON))[1]
    assert await counts(db, "payment_events", "deliveries") == [0, 0]


async def test_two_signature_headers_are_refused(strict: Client) -> None:  # row 29
    lines = [f"{name}: {value}" for name, value in signed(BODY).items()] + [f"webhook-signature: {SIGNATURE}"]
    head = "\r\n".join(["POST /webhooks-sync/payments HTTP/1.1", "Host: x", f"Content-Length: {len(BODY)}", *lines])
    assert b" 401 " in await strict.raw(head.encode() + b"\r\n\r\n" + BODY)


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
async def test_each_configured_secret_verifies_and_one_good_signature_is_enough(strict: Client, key: bytes) -> None:
    headers = signed(BODY, key)
    headers["webhook-signature"] = "v1,AAAA " + headers["webhook-signature"]  # row 38
    assert (await strict.post(SYNC, BODY, headers))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [{"Host": "pay.example"}, {"X-Forwarded-For": "10.1.2.3"}, {"Forwarded": "for=10.1.2.3"}, {"Via": "1.1 tunnel"},
     {"Origin": "http://localhost"}, {"Host": "127.0.0.1.evil.com"}, {"Host": "localhost:80@evil.com"}],
    ids=str,
)  # fmt: skip
async def test_unsigned_events_are_taken_from_this_machine_only(client: Client, headers: dict[str, str]) -> None:
    assert (await client.post(SYNC, BODY, JSON | headers))[0] == 401
    assert (await client.post(SYNC, BODY, JSON | {"Host": "[::1]:8080"}))[0] == 200


async def test_without_a_secret_the_endpoints_are_off(database_url: str) -> None:
    async with serving(database_url, allow_unsigned=False) as client:
        assert (await client.post(SYNC, BODY))[0] == 404


async def test_the_same_event_a_hundred_times_at_once_posts_once(client: Client, db: Connection) -> None:  # row 93
    answers = await asyncio.gather(*(client.apply("same", 1, 5) for _ in range(100)))
    assert sorted(set(answers)) == [(200, "applied"), (200, "duplicate")]
    assert answers.count((200, "applied")) == 1
    assert await counts(db, "payments") == [1]


async def test_other_content_under_a_known_id_is_a_conflict(client: Client, db: Connection) -> None:  # row 94
    await client.apply("e", 1, 5)
    assert await client.apply("e", 1, 6) == (409, "conflict")
    assert await client.enqueue("e", 1, 7) == (409, "conflict")
    assert await counts(db, "payments", "dead_letters") == [1, 2]


async def test_many_requests_share_few_commits_and_each_gets_its_own_answer(client: Client, db: Connection) -> None:
    for invoice in range(2, 42):
        await add_invoice(db, invoice, amount=invoice)
    before = await db.fetchval("select count(distinct xmin::text) from payments")
    answers = await asyncio.gather(
        *(client.post(SYNC, {"event_id": f"e{n}", "invoice_id": n, "amount": n}) for n in range(1, 42))
    )
    assert [answer["event_id"] for _, answer, _ in answers] == [f"e{n}" for n in range(1, 42)]
    assert [answer["paid"] for _, answer, _ in answers] == list(range(1, 42))
    assert await db.fetchval("select count(distinct xmin::text) from payments") - before < 20


async def test_an_event_whose_application_raises_gets_its_own_error(client: Client, db: Connection) -> None:
    await db.execute("""
        create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
        create trigger refuse before update on invoices for each row when (old.id = 2) execute function refuse()""")
    await add_invoice(db, 2)
    answers = await asyncio.gather(*(client.apply(f"e{n}", 1 + (n == 7), 5) for n in range(20)))
    assert answers == [(500, "failed") if n == 7 else (200, "applied") for n in range(20)]


async def test_an_invoice_that_somebody_holds_delays_its_own_events_only(
    client: Client, db: Connection, connect: Any
) -> None:
    await add_invoice(db, 2)
    holder = await connect()
    async with holder.transaction():
        await holder.execute("select from invoices where id = 2 for update")
        held = asyncio.create_task(client.apply("held", 2, 5))
        refused = asyncio.create_task(client.post(SYNC, {"event_id": "refused", "invoice_id": 2, "amount": 5}))
        await asyncio.sleep(0.05)
        assert await client.apply("free", 1, 5) == (200, "applied")
        assert not held.done()
        status, _, response = await refused
        assert (status, response.headers["Retry-After"]) == (503, "1")
        await held
        again = asyncio.create_task(client.apply("held", 2, 5))
        await asyncio.sleep(0.1)
    assert await again == (200, "applied")


async def test_a_commit_that_no_standby_confirmed_is_not_acknowledged(tmp_path: Path, bin_dir: Path | None) -> None:
    with embedded.start(tmp_path / "pg", bin_dir=bin_dir) as server:
        await migrate.up(server.url)
        admin = await asyncpg.connect(server.url)
        await add_invoice(admin, 1)
        await admin.execute("alter system set synchronous_standby_names = 'nobody'")
        await admin.execute("select pg_reload_conf()")
        async with serving(server.url) as client:
            sent = asyncio.create_task(client.apply("e", 1, 5))
            waits = "select pid from pg_stat_activity where wait_event = 'SyncRep'"
            while (pid := await admin.fetchval(waits)) is None:
                await asyncio.sleep(0.01)
            await admin.execute("select pg_cancel_backend($1)", pid)
            assert await sent == (503, "unavailable")
        await admin.close()


async def test_without_a_database_it_says_503_quickly_and_recovers_by_itself(
    tmp_path: Path, bin_dir: Path | None
) -> None:
    data = tmp_path / "pg"
    server = embedded.start(data, bin_dir=bin_dir)
    await migrate.up(server.url)
    admin = await asyncpg.connect(server.url)
    await add_invoice(admin, 1)
    await admin.close()
    async with serving(server.url) as client:
        assert await client.apply("e1", 1, 5) == (200, "applied")
        server.stop()
        loop = asyncio.get_running_loop()
        started = loop.time()
        for _ in range(5):
            assert await client.apply("e2", 1, 5) == (503, "unavailable")
        async with client.session.get(client.url + "/readyz") as ready:
            assert (ready.status, (await ready.json())["status"]) == (503, "not ready")
        assert loop.time() - started < 2
        async with client.session.get(client.url + "/livez") as alive:
            assert alive.status == 200
        with embedded.start(data, bin_dir=bin_dir):
            assert await client.apply("e2", 1, 5) == (200, "applied")
            async with client.session.get(client.url + "/readyz") as ready:
                assert ready.status == 200


async def test_readiness_tells_of_missing_migrations(
    cluster: embedded.Server, database_url: str, db: Connection
) -> None:
    async with serving(cluster.url_of("postgres")) as client, client.session.get(client.url + "/readyz") as ready:
        assert (ready.status, "dbmate --env-file dbmate.env up" in (await ready.json())["reason"]) == (503, True)
    await db.execute("create or replace function schema_version() returns text language sql return '20000101000000'")
    async with serving(database_url) as client, client.session.get(client.url + "/readyz") as ready:
        assert (ready.status, "20000101000000" in (await ready.json())["reason"]) == (503, True)


async def test_a_login_of_another_role_is_told_which_it_needs(database_url: str, db: Connection) -> None:
    role = await db.fetchval("select quote_ident(role_name('listener'))")
    async with (
        sessions.member_of(db, role) as login,
        serving(database_url.replace("postgres@", f"{login}@")) as client,
        client.session.get(client.url + "/readyz") as ready,
    ):
        assert (ready.status, "_server" in (await ready.json())["reason"]) == (503, True)


async def test_the_server_role_is_enough(database_url: str, db: Connection) -> None:
    await add_invoice(db, 1)
    role = await db.fetchval("select quote_ident(role_name('server'))")
    async with (
        sessions.member_of(db, role) as login,
        serving(database_url.replace("postgres@", f"{login}@")) as client,
    ):
        assert await client.apply("e1", 1, 5) == (200, "applied")
        assert await client.enqueue("e2", 1, 5) == (202, "queued")
        async with client.session.get(client.url + "/readyz") as ready:
            assert ready.status == 200


async def test_of_several_hosts_it_uses_the_one_that_answers(database_url: str, db: Connection) -> None:
    await add_invoice(db, 1)
    host, _, port = database_url.partition("?host=")[2].partition("&port=")
    several = database_url.partition("?")[0] + f"?host={host},%2Fnowhere&port={port},{port}"
    async with serving(several) as client:
        assert await client.apply("e1", 1, 5) == (200, "applied")


async def test_a_first_host_that_says_nothing_costs_no_answer(database_url: str, db: Connection) -> None:
    """As one that has lost its network: it takes the connection, or not even that."""
    await add_invoice(db, 1)
    path, _, port = database_url.partition("?host=")[2].replace("%2F", "/").partition("&port=")

    async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_unix_connection(f"{path}/.s.PGSQL.{port}")
        await asyncio.gather(pipe(reader, ours), pipe(theirs, writer), return_exceptions=True)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with await asyncio.start_server(forward, "127.0.0.1", 0) as primary:
            hosts = [f"127.0.0.1:{one.getsockname()[1]}" for one in (silent, primary.sockets[0])]
            name = database_url.partition("?")[0].rpartition("/")[2]
            async with serving(f"postgresql://postgres@{','.join(hosts)}/{name}") as client:
                assert await client.apply("e1", 1, 5) == (200, "applied")
                async with client.session.get(client.url + "/readyz") as ready:
                    assert ready.status == 200


async def test_an_event_that_another_transaction_holds_keeps_back_no_other(database_url: str, db: Connection) -> None:
    await add_invoice(db, 1)
    async with serving(database_url, request_deadline=4) as client:
        async with db.transaction():
            await db.execute("select enqueue_payment_event('held', 1, 5)")
            held = asyncio.create_task(client.post(QUEUE, b'{"event_id": "held", "invoice_id": 1, "amount": 5}', JSON))
            others = await asyncio.gather(*(client.enqueue(f"e{number}", 1, 5) for number in range(60)))
            assert set(others) == {(202, "queued")}
            assert (await held)[0] == 503
        assert await client.enqueue("held", 1, 5) == (200, "duplicate")


async def test_it_is_not_ready_where_the_database_takes_no_writes(database_url: str, db: Connection) -> None:
    name = await db.fetchval("select quote_ident(current_database())")
    await db.execute(f"alter database {name} set default_transaction_read_only = on")
    async with serving(database_url) as client, client.session.get(client.url + "/readyz") as ready:
        assert (ready.status, "takes no writes" in (await ready.json())["reason"]) == (503, True)
        assert (await client.enqueue("e1", 1, 5))[0] == 503


async def test_who_asks_whether_to_go_on_is_told_so(client: Client) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    head = b"POST /webhooks/payments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(head + b"Expect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(5):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_what_is_no_http_is_not_quoted_in_the_log(database_url: str) -> None:
    process = Process("service.server", database_url, ALLOW_UNSIGNED="true")
    async with aiohttp.ClientSession() as session:
        client = await process.up(session)
        head = b"POST /webhooks/payments HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n"
        assert b" 400 " in (await client.raw(head + b'{"event_id":"secret-1"}'))[:16]
    _, said = await process.end()
    assert "secret-1" not in said
    assert "Traceback" not in said


async def test_several_may_ask_at_once_whether_it_is_ready(client: Client) -> None:
    async def ready() -> int:
        async with client.session.get(client.url + "/readyz") as response:
            return response.status

    assert set(await asyncio.gather(*(ready() for _ in range(20)))) == {200}


async def test_the_process_starts_answers_and_ends_cleanly(database_url: str, db: Connection) -> None:
    await add_invoice(db, 1)
    process = Process("service.server", database_url, ALLOW_UNSIGNED="true", LOG_FORMAT="json")
    async with aiohttp.ClientSession() as session:
        client = await process.up(session)
        await db.execute("begin; select from invoices where id = 1 for update")
        held = asyncio.create_task(client.apply("held", 1, 5))
        await asyncio.sleep(0.1)
        process.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        await db.execute("commit")
        assert await held == (200, "applied")
        status, said = await process.end()
    assert status == 0
    assert [json.loads(line)["event"] for line in said.splitlines()] == ["server_started", "server_stopping"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "WEBHOOK_SECRETS"),
        ({"WEBHOOK_SECRETS": ""}, "WEBHOOK_SECRETS"),
        ({"WEBHOOK_SECRETS": "whsec_c2hvcnQ="}, "WEBHOOK_SECRETS"),
        ({"ALLOW_UNSIGNED": "true", "PORT": "many", "POLL_INTERVAL": "-1"}, "POLL_INTERVAL"),
        ({"ALLOW_UNSIGNED": "true", "DATABASE_URL": "mysql://x"}, "DATABASE_URL"),
        ({"ALLOW_UNSIGNED": "true", "OPERATOR_DATABASE_URL": "mysql://x"}, "OPERATOR_DATABASE_URL"),
    ],
    ids=str,
)
async def test_it_refuses_to_start_and_names_the_setting(
    database_url: str, environment: dict[str, str], expected: str
) -> None:
    status, said = await Process("service.server", database_url, **environment).end(signal.SIGCONT)
    assert status == 1
    assert expected in said
    assert "Traceback" not in said
    assert "c2hvcnQ" not in said


async def test_the_pages_of_the_admin_port(database_url: str) -> None:
    process = Process("service.server", database_url, ALLOW_UNSIGNED="true")
    admin = f"http://127.0.0.1:{process.admin_port}"
    async with aiohttp.ClientSession() as session:
        client = await process.up(session)
        await client.apply("e", 9, 5)
        async with session.get(admin + "/metrics") as metrics:
            assert 'requests_total{endpoint="/webhooks-sync/payments",status="404"} 1.0' in await metrics.text()
        async with session.get(admin + "/openapi.json") as document:
            assert {SYNC, QUEUE, "/webhooks/{connection}"} < set((await document.json())["paths"])
        async with session.get(admin + "/docs") as docs:
            page = await docs.text()
            assert "unknown fields are ignored" in page.lower()
            assert "http://" not in page.replace(client.url, "")  # nothing from any network
    await process.end()

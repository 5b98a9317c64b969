"""`python -m service.server`: webhooks in, answers out after the commit. Stateless; run as many as you like."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import structlog
from aiohttp import hdrs, web
from prometheus_client import Counter, Gauge, Histogram

from service import admin, docs, process
from service.adapters import direct, standard_webhooks
from service.adapters.adapter import NOT_FETCHED, Adapter, Delivery, Fact, FetchError
from service.adapters.api import FetchingAdapter
from service.console.pages import Console
from service.database import (
    LINK_OUTCOMES,
    BlockedError,
    DeadLetter,
    Link,
    PaymentEvent,
    RejectedError,
    Result,
    Session,
    UnavailableError,
)
from service.environment import SettingsError
from service.group_commit import DeadlineError, Flush, GroupCommit, Item, Outcome, OverloadedError
from service.problems import Problem, unavailable
from service.settings import MAKE_A_SECRET, Settings

MAX_BODY = 1024 * 1024
"""Bytes; a larger body is answered 413. Batches of 250 events, and orders of 100 items, can have 300 kB."""
SHUTDOWN_TIMEOUT = 10.0
"""Seconds that accepted requests have to be answered in once we are told to stop."""
BODY_TIMEOUT = 10.0
"""Seconds that a body may take to arrive."""
LANES = 2
"""Connections for each kind of commit: one at work, and one for when that is held up."""
LOCK_TIMEOUT = 0.3
"""Seconds that a batch waits for another's transaction before it is divided: only what is blocked stays behind."""
FETCH_TIMEOUT = 30.0
"""Seconds to ask a provider's API again about one delivery, and to store what it tells."""
BUSY_PAUSES = (0.0, 0.02, 0.1, 0.3, 0.6)
"""Seconds between tries at an invoice that somebody else has locked."""

STATUS = {"applied": 200, "duplicate": 200, "queued": 202, "parked": 202}
PROBLEMS = {
    "unknown_invoice": (404, "Insert the invoice first, then send it again."),
    "conflict": (409, "Nothing was applied, a dead letter keeps it. Send a different payment under an id of its own."),
    "dead": (409, "An operator has to look at it (open_dead_letters); sending it again changes nothing."),
    "currency_mismatch": (422, "Send the amount in the invoice's currency."),
    "amount_out_of_range": (422, "The invoice's sums are near their limit; split the invoice."),
    "invalid": (422, "Correct the field that it names and send it again."),
    "failed": (500, "A trigger of this database raised; nothing was stored. Its owner finds the SQLSTATE in our log."),
}
"""HTTP status of each outcome that is no success, and the way out."""
Endpoint: TypeAlias = tuple[tuple[str, ...], admin.Handler]
"""The methods that it takes, and what answers them."""

_log = structlog.get_logger()
_requests = Counter("payment_webhooks_requests", "Requests answered", ["endpoint", "status"])
_seconds = Histogram(
    "payment_webhooks_request_seconds",
    "From a request's headers to its answer",
    ["endpoint"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
_batches = Histogram(
    "payment_webhooks_batch_events",
    "Events that shared one commit",
    ["endpoint"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 250),
)
_waiting = Gauge("payment_webhooks_waiting", "Requests that wait for a commit to start", ["endpoint"])
_reports = Counter(
    "payment_webhooks_reports", "What providers reported, by what became of it", ["connection", "outcome"]
)


class Server:
    """The endpoints, and the sessions and group commits behind them."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._sessions: list[Session] = []
        self._health = self._session()
        self._asking = asyncio.Lock()
        self._apply = self._commit("apply", lambda session: session.apply)
        self._enqueue = self._commit("enqueue", lambda session: session.enqueue)
        self._apply_or_park = self._commit("apply_or_park", lambda session: partial(session.apply, park=True))
        self._enqueue_any = self._commit("enqueue_any", lambda session: partial(session.enqueue, park=True))
        self._set_aside = self._commit("set_aside", lambda session: partial(_set_aside, session))
        self._available, self._failed_at = True, 0.0

    def _session(self) -> Session:
        """A connection of its own, opened when it is first used."""
        session = Session(self.settings.required_database_url, "payment_webhooks server", lock_timeout=LOCK_TIMEOUT)
        self._sessions.append(session)
        return session

    def _commit(self, name: str, flush: Callable[[Session], Flush[Item, Outcome]]) -> GroupCommit[Item, Outcome]:
        commit = GroupCommit(
            [_installed(flush(self._session())) for _ in range(LANES)],
            splits=(RejectedError, BlockedError),
            deadline=self.settings.request_deadline,
            on_batch=_batches.labels(name).observe,
        )
        _waiting.labels(name).set_function(partial(len, commit))
        return commit

    def runner(self) -> web.ServerRunner:
        """Serves the public endpoints.

        By aiohttp's low-level server: an application's router and middlewares cost as much as an event's share of its
        commit.
        """
        livez, readyz = admin.health(self.unready)
        endpoints: dict[str, Endpoint] = {"/livez": (("GET",), livez), "/readyz": (("GET",), readyz)}
        if self.settings.webhook_secrets or self.settings.allow_unsigned:
            endpoints["/webhooks-sync/payments"] = (("POST",), partial(self._receive, self.apply))
            endpoints["/webhooks/payments"] = (("POST",), partial(self._receive, self.enqueue))
        for adapter in self.settings.connections:
            for path, settle in (("webhooks-sync", self._settle_now), ("webhooks", self._settle)):
                receive = partial(self._receive_from, adapter, settle)
                endpoints[f"/{path}/{adapter.connection}"] = (adapter.methods, receive)
        server = web.Server(partial(_answer, endpoints), request_factory=_request, **admin.HTTP_OPTIONS)
        return web.ServerRunner(server, shutdown_timeout=SHUTDOWN_TIMEOUT)

    async def unready(self) -> str | None:
        """What keeps this server from doing its work; None when nothing does."""
        async with self._asking:
            return await self._health.unready()

    async def apply(self, event: PaymentEvent) -> Result:
        """Apply an event now. An invoice that another transaction holds is tried again for about a second."""
        for pause in BUSY_PAUSES:
            result = await self._apply.submit(event)
            if result.outcome != "busy":
                return result
            await asyncio.sleep(pause)
        raise unavailable(f"Invoice {event.invoice_id} is locked by another transaction. Send it again.")

    async def enqueue(self, event: PaymentEvent) -> Result:
        """Store an event for the listener."""
        return await self._enqueue.submit(event)

    async def fetch_again(self) -> None:
        """Ask providers' APIs, until cancelled, for what they did not tell when a webhook came."""
        session = self._session()
        adapters = [adapter for adapter in self.settings.connections if isinstance(adapter, FetchingAdapter)]
        while adapters:
            await asyncio.sleep(self.settings.poll_interval)
            for adapter in adapters:
                try:
                    with self._answering():
                        while await asyncio.wait_for(self._fetch_oldest(session, adapter), FETCH_TIMEOUT):
                            pass
                except (Problem, RejectedError, TimeoutError):
                    pass  # it is due again; what the database refuses shows in readyz
                except Exception:  # noqa: BLE001 - one body that we cannot read must not end this for all others
                    _log.exception("not_fetched_again", connection=adapter.connection)

    async def _fetch_oldest(self, session: Session, adapter: Adapter) -> bool:
        """Whether there may be more to ask for: one was due, and the API told."""
        unfetched = await session.claim_unfetched(adapter.connection)
        if unfetched is None:
            return False
        facts = await adapter.facts(Delivery.kept(unfetched.body, unfetched.content_type))
        if any(isinstance(fact, DeadLetter) and fact.reason == NOT_FETCHED for fact in facts):
            await self._settle_all(adapter, self._settle, [fact for fact in facts if isinstance(fact, PaymentEvent)])
            return False
        await self._settle_all(adapter, self._settle, facts)
        await session.close_fetched(unfetched.letter)
        return True

    async def close(self) -> None:
        """Answer what was accepted, then leave the database and the providers' APIs."""
        for commit in (self._apply, self._enqueue, self._apply_or_park, self._enqueue_any, self._set_aside):
            await commit.close()
        for adapter in self.settings.connections:
            await adapter.close()
        for session in self._sessions:
            await session.close()

    async def _receive(
        self, submit: Callable[[PaymentEvent], Awaitable[Result]], request: web.BaseRequest
    ) -> web.Response:
        body = await _read(request)
        self._authenticate(request, body)
        if request.content_type != "application/json":
            raise Problem(415, "unsupported-media-type", "Send the event as Content-Type: application/json.")
        event = direct.translate(body)
        with self._answering():
            try:
                async with asyncio.timeout(self.settings.request_deadline):
                    result = await submit(event)
            except RejectedError as error:
                _log.error(
                    "event_failed", event_id=event.event_id, sqlstate=error.sqlstate, constraint=error.constraint
                )
                raise Problem(500, "failed", PROBLEMS["failed"][1]) from None
        if (status := STATUS.get(result.outcome)) is None:
            raise _problem(result)
        content = {name: value for name, value in zip(Result._fields, result, strict=True) if value is not None}
        return web.Response(status=status, body=json.dumps(content).encode() + b"\n", content_type="application/json")

    async def _receive_from(
        self, adapter: Adapter, settle: Callable[[Fact], Awaitable[str]], request: web.BaseRequest
    ) -> web.Response:
        """A provider's webhook: whatever is authentic is stored and answered 200, of use or not."""
        if request.method == "GET":
            if (proof := adapter.challenge(request.query)) is None:
                raise Problem(400, "bad-request", "Send a challenge as the provider documents it.")
            return web.Response(text=proof)
        delivery = Delivery(request.headers, await _read(request), time.time())
        try:
            if not await adapter.is_authentic(delivery):
                raise _unauthenticated()
            facts = await adapter.facts(delivery)
        except FetchError as error:
            _log.warning("provider_unavailable", connection=adapter.connection, error=str(error))
            raise unavailable("The provider's API did not confirm it in time. Send it again.") from None
        with self._answering() if facts else contextlib.nullcontext():
            async with asyncio.timeout(self.settings.request_deadline):
                outcomes = await self._settle_all(adapter, settle, facts)
        if adapter.answer:
            return web.Response(body=adapter.answer, content_type="text/plain")
        return web.Response(body=json.dumps({"outcomes": outcomes}).encode() + b"\n", content_type="application/json")

    async def _settle_all(
        self, adapter: Adapter, settle: Callable[[Fact], Awaitable[str]], facts: Sequence[Fact]
    ) -> list[str]:
        """What became of each of a delivery's facts."""
        outcomes = [await settle(facts[0])] if len(facts) == 1 else await asyncio.gather(*map(settle, facts))
        for outcome in outcomes or ("ignored",):
            _reports.labels(adapter.connection, outcome).inc()
        return outcomes

    async def _settle_now(self, fact: Fact) -> str:
        """What became of a fact that is to be applied at once; where that cannot be, it is queued."""
        if isinstance(fact, PaymentEvent):
            with contextlib.suppress(RejectedError):
                result = await self._apply_or_park.submit(fact)
                if result.outcome not in {"busy", "invalid"}:
                    return result.outcome
        return await self._settle(fact)

    async def _settle(self, fact: Fact) -> str:
        """What became of a fact: queued, linked, or set aside as a dead letter with its reason."""
        if not isinstance(fact, PaymentEvent):
            return await self._set_aside.submit(fact)
        try:
            result = await self._enqueue_any.submit(fact)
            if result.outcome != "invalid":
                return result.outcome
            detail = result.detail or "invalid"
        except RejectedError as error:
            detail = str(error)
        return await self._set_aside.submit(DeadLetter.of_invalid(fact, detail))

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Translate what keeps us from committing; a 503 makes everyone send again."""
        try:
            yield
        except OverloadedError:
            raise unavailable("Too many requests wait already. Send it again in a moment.") from None
        except (UnavailableError, DeadlineError, TimeoutError) as error:
            self._note_database(available=False, error=error)
            raise unavailable("The database did not confirm in time. Send it again: it is applied once.") from None
        self._note_database(available=True)

    def _authenticate(self, request: web.BaseRequest, body: bytes) -> None:
        """Raise the one answer to every doubt."""
        if keys := self.settings.webhook_secrets:
            authentic = standard_webhooks.is_authentic(keys, Delivery(request.headers, body, time.time()))
        else:
            authentic = admin.is_local(request) and hdrs.ORIGIN not in request.headers  # no page of a browser
        if not authentic:
            raise _unauthenticated()

    def _note_database(self, *, available: bool, error: Exception | None = None) -> None:
        """One line when the database goes, one when it is back for a second: a lane alone may reach it, or not."""
        if not available:
            self._failed_at = time.monotonic()
            if self._available:
                self._available = False
                _log.warning("database_unavailable", error=str(error) or type(error).__name__)
        elif not self._available and time.monotonic() > self._failed_at + 1:
            self._available = True
            _log.info("database_available")


def _installed(flush: Flush[Item, Outcome]) -> Flush[Item, Outcome]:
    """The flush; where the database lacks our functions, or this login the right to call them, it is unavailable."""

    async def call(batch: Sequence[Item]) -> Sequence[Outcome]:
        try:
            return await flush(batch)
        except RejectedError as error:
            if error.is_not_installed:
                raise UnavailableError(str(error), error.sqlstate) from None
            raise

    return call


async def _set_aside(session: Session, facts: Sequence[Link | DeadLetter]) -> list[str]:
    outcomes = await session.set_aside(facts)
    for fact, outcome in zip(facts, outcomes, strict=True):
        if outcome not in LINK_OUTCOMES:
            _log.warning("dead_letter", connection=fact.connection, reason=outcome)
    return outcomes


def _unauthenticated() -> Problem:
    """The one answer to every doubt."""
    return Problem(401, "unauthenticated", "Sign the request with the secret that is configured for this endpoint.")


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)


async def _answer(endpoints: Mapping[str, Endpoint], request: web.BaseRequest) -> web.StreamResponse:
    """Refuse what is no plain request, make a problem of every error, and count."""
    started = time.perf_counter()
    path = request.path
    methods, handler = endpoints.get(path, ((), None))
    response: web.StreamResponse
    try:
        if len(request.headers.getall(hdrs.HOST, ())) != 1 or hdrs.UPGRADE in request.headers:
            raise Problem(400, "bad-request", "Send a plain HTTP/1.1 request with one Host header.")  # noqa: TRY301
        if handler is None:
            raise Problem(404, "not-found", "There is no such endpoint, or it is not configured.")  # noqa: TRY301
        if request.method not in methods:
            allowed = ", ".join(methods)
            raise Problem(405, "method-not-allowed", f"Use {allowed}.", headers={"Allow": allowed})  # noqa: TRY301
        response = await handler(request)
    except Problem as problem:
        response = problem.response()
    except web.HTTPRequestEntityTooLarge:
        response = Problem(413, "too-large", f"Send at most {MAX_BODY} bytes.").response()
    except Exception:  # noqa: BLE001 - whatever it is, the client is answered and the log has it
        _log.exception("request_failed", endpoint=path if handler else "none")
        response = Problem(500, "internal-error", "This is our mistake; the log tells. Send it again later.").response()
    endpoint = path if handler else "none"
    _requests.labels(endpoint, response.status).inc()
    _seconds.labels(endpoint).observe(time.perf_counter() - started)
    return response


async def _read(request: web.BaseRequest) -> bytes:
    """The body's exact bytes. Raises Problem, or aiohttp's error for a body that is too large."""
    if hdrs.CONTENT_ENCODING in request.headers:
        raise Problem(415, "unsupported-media-type", "Send the body as it is, without Content-Encoding.")
    if (request.content_length or 0) > MAX_BODY:
        raise Problem(413, "too-large", f"Send at most {MAX_BODY} bytes.")
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        if request.content.is_eof():  # it came with the headers, as nearly all do
            return await request.read()
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except TimeoutError:
        raise Problem(408, "timeout", f"Send the whole body within {BODY_TIMEOUT:g} s.") from None
    except (web.RequestPayloadError, ConnectionError):
        raise Problem(400, "bad-request", "The body ended early.") from None


def _problem(result: Result) -> Problem:
    status, way_out = PROBLEMS[result.outcome]
    if result.outcome == "failed":
        state = re.search(r"\(SQLSTATE (\w{5})\)$", result.detail or "")
        _log.error("event_failed", event_id=result.event_id, sqlstate=state and state[1])
        return Problem(status, "failed", way_out)
    if status == 409:
        _log.warning("event_refused", event_id=result.event_id, outcome=result.outcome, invoice_id=result.invoice_id)
    detail = (result.detail or result.outcome)[:1].upper() + (result.detail or result.outcome)[1:]
    return Problem(status, result.outcome.replace("_", "-"), f"{detail}. {way_out}")


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    on_started: Callable[[], object] = lambda: None,
    *,
    local_operator: str | None = None,
) -> None:
    """Serve until `stop`, then answer what was accepted; `on_started` is called once it listens.

    `local_operator` may use the console from this machine without a token, where there are no OPERATOR_TOKENS.

    Raises SettingsError when nothing is switched on or a port cannot be had.
    """
    if not settings.webhook_secrets and not settings.allow_unsigned and not settings.connections:
        raise SettingsError(
            "No endpoint is on. Set WEBHOOK_SECRETS to whsec_ and the base64 of 24 to 64 random bytes "
            f"({MAKE_A_SECRET}), a provider's such as STRIPE_WEBHOOK_SECRETS, "
            "or ALLOW_UNSIGNED=true to take unsigned events from this machine only."
        )
    server = Server(settings)
    console = Console(settings, local_operator) if settings.operator_tokens or local_operator else None
    runners: list[web.BaseRunner] = []
    try:
        url = f"http://{settings.host}:{settings.port}"
        pages = docs.routes(url, signed=bool(settings.webhook_secrets))
        runners.append(await admin.start(settings, [*pages, *(console.routes() if console else ())]))
        runners.append(await admin.listen(server.runner(), settings.host, settings.port, "PORT", shared=True))
        _log.info(
            "server_started",
            host=settings.host,
            port=settings.port,
            admin_port=settings.admin_port,
            connections=",".join(adapter.connection for adapter in settings.connections) or "none",
        )
        if reason := await server.unready():
            _log.warning("server_not_ready", reason=reason)
        fetching = asyncio.create_task(server.fetch_again())
        on_started()
        await stop.wait()
        _log.info("server_stopping")
        fetching.cancel()
    finally:
        if console is not None:
            await console.close()
        for runner in reversed(runners):
            await runner.cleanup()
        await server.close()


def main() -> None:
    """Run the server with the settings of the environment."""
    process.run(serve)


if __name__ == "__main__":
    main()

"""The only file that talks to PostgreSQL: one connection a session, one method a function, SQLSTATE to exception."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self, TypeAlias
from urllib.parse import parse_qs

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from service.migrate import MIGRATE, newest_version

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"  # quoted: subscriptable for the type checker only

CONNECT_TIMEOUT = 3.0
"""Seconds to reach PostgreSQL and log in."""
CLOSE_TIMEOUT = 1.0
"""Seconds for a broken call to be cancelled in the server before its connection is cut."""
STATEMENT_TIMEOUT = 5.0
"""Seconds that a call of the listener may take; a batch that needs longer is divided."""
LOOK_TIMEOUT = 2.0
"""Seconds that a look at parked events, or a measurement of the queue, may keep the listener from work."""
SLICE = 10_000
"""Parked events looked at in one transaction."""
GATE_TIMEOUT = 2.0
"""Seconds that one about gate or watch may take, the first after a sleep: a network that died meanwhile shows there."""

LINK_OUTCOMES = {"linked", "duplicate", "parked"}
"""What set_aside() says of a link that made no dead letter."""
QUERY_CANCELED = "57014"
# Not the call's fault, and it may succeed when tried again: broken connection, standby, deadlock, no resources, a lock
# or a statement that took too long, shutdown, I/O. The last is a plan that a migration has outdated.
_TRANSIENT = ("08", "25006", "40", "53", "55P03", "57", "58", "0A000")


class UnavailableError(Exception):
    """The database cannot be reached, is too busy, or broke off: nothing is known about the call; send it again.

    `sqlstate` is PostgreSQL's code, None where it said nothing.
    """

    def __init__(self, reason: str, sqlstate: str | None = None):
        super().__init__(reason)
        self.sqlstate = sqlstate


class BlockedError(UnavailableError):
    """Another transaction holds what one of the call's items needs: an event of the same id, or the same movement."""


class RejectedError(Exception):
    """PostgreSQL refused the call as a whole and did nothing: `sqlstate` and `constraint` say why.

    `explanation` is for whoever made the call, never for a log: message, DETAIL and HINT of an error of our registry.
    """

    def __init__(
        self, sqlstate: str | None, constraint: str | None, explanation: str | None = None, *, within: bool = False
    ):
        super().__init__(f"SQLSTATE {sqlstate}" + (f", constraint {constraint}" if constraint else ""))
        self.sqlstate = sqlstate
        self.constraint = constraint
        self.explanation = explanation
        self.is_not_installed = not within and sqlstate in {"42501", "42883"}
        """Our function is not there, or not ours to call: no event's fault. `within` it, a trigger of others raised."""


class PaymentEvent(NamedTuple):
    """What a connection reports: the parameters of apply_payment_event(), by name and in their order.

    `amount` is in minor units of `currency`; None leaves a field to the SQL function's default.
    """

    event_id: str
    invoice_id: int | None
    amount: int
    kind: str | None = None
    currency: str | None = None
    connection: str | None = None
    reference: str | None = None
    parent_reference: str | None = None
    invoice_reference: str | None = None
    occurred_at: datetime | None = None
    body: bytes | None = None
    content_type: str | None = None


class Link(NamedTuple):
    """`reference` is another name of the invoice, which is named by its id or by a reference known already."""

    reference: str
    invoice_id: int | None
    invoice_reference: str | None
    connection: str = ""
    body: bytes = b""
    content_type: str = ""


class DeadLetter(NamedTuple):
    """What is authentic but cannot become an event; `reason` is a word to list it by."""

    connection: str
    reason: str
    detail: str
    body: bytes
    content_type: str
    event_id: str | None = None

    @classmethod
    def of_invalid(cls, event: PaymentEvent, detail: str) -> Self:
        """For a provider's event that the database refuses."""
        return cls(
            event.connection or "", "invalid", detail, event.body or b"", event.content_type or "", event.event_id
        )


class Unfetched(NamedTuple):
    """A dead letter, by its id, whose money the provider's API has not told yet."""

    letter: int
    body: bytes
    content_type: str | None


class Result(NamedTuple):
    """A row of SQL's payment_event_result: what became of one event, and its invoice now (amounts in minor units).

    An event stored for later has only the first four, payment_event_receipt.
    """

    event_id: str
    outcome: str
    invoice_id: int | None
    detail: str | None
    status: str | None = None
    amount: int | None = None
    currency: str | None = None
    paid: int | None = None
    refunded: int | None = None
    charged_back: int | None = None
    due: int | None = None
    overpaid: int | None = None


RECEIPT = Result._fields[:4]
"""The fields of SQL's payment_event_receipt."""


class Session:
    """One connection to `url`, opened at the first call and anew after it broke. One call at a time.

    Behind a pooler in transaction mode (found out by asking the backend who it is) each call is a transaction of its
    own and nothing is prepared. Of several hosts the one that takes writes is used.
    """

    role = "server"
    """The role that its login has to be a member of."""
    needs = "enqueue_payment_events"
    """A function that its login has to be allowed to call."""

    def __init__(self, url: str, name: str, *, lock_timeout: float = 0):
        self.url = url
        self._name = name
        self._lock_timeout = lock_timeout
        self._hosts = each_host(url)
        self._connection: Connection | None = None
        self._statements: dict[str, asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._unreplicated = False
        self.pooled = False
        """Whether a pooler stands between: then nothing of a session lasts, neither LISTEN nor advisory locks."""

    async def connection(self) -> Connection:
        """The connection, opened where there is none. Raises UnavailableError."""
        if self._connection is None or self._connection.is_closed():
            async with self._guard():
                self._connection = await self._connect()
        return self._connection

    async def _connect_to(self, host: str) -> Connection:
        several = len(self._hosts) > 1 and "target_session_attrs" not in self.url
        connection: Connection = await asyncpg.connect(
            host,
            timeout=CONNECT_TIMEOUT / len(self._hosts),
            statement_cache_size=0,
            server_settings={"application_name": self._name},
            target_session_attrs=SessionAttribute.read_write if several else None,
        )
        return connection

    async def _connect_to_any(self) -> Connection:
        """The next time too, the host that answered comes first."""
        for _ in self._hosts[1:]:
            try:
                return await self._connect_to(self._hosts[0])
            except (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched):
                self._hosts.append(self._hosts.pop(0))
        return await self._connect_to(self._hosts[0])

    async def _connect(self) -> Connection:
        connection = await self._connect_to_any()
        self._statements = {}
        async with connection.transaction():
            self.pooled = await connection.fetchval("select pg_backend_pid()") != connection.get_server_pid()
        if not self.pooled:  # a stricter default would only make conflicts: the functions take their locks themselves
            await connection.execute("set default_transaction_isolation = 'read committed'")
        if self._lock_timeout and not self.pooled:
            await connection.execute(f"set lock_timeout = '{self._lock_timeout} s'")
        connection.add_log_listener(self._on_notice)
        return connection

    def _on_notice(self, connection: object, message: Any) -> None:
        if message.server_source_function == "SyncRepWaitForLSN" and connection is self._connection:
            self._unreplicated = True

    @contextlib.asynccontextmanager
    async def _guard(self) -> AsyncIterator[None]:
        """Translate what goes wrong, and give the connection up where it may be broken or in the middle of a call."""
        self._unreplicated = False
        try:
            yield
        except asyncpg.PostgresError as error:
            state = error.sqlstate or ""
            if not state.startswith(_TRANSIENT):
                explanation = f"{error.args[0]}. {error.detail} {error.hint}" if state.startswith("PW") else None
                within = error.context is not None
                raise RejectedError(error.sqlstate, error.constraint_name, explanation, within=within) from None
            if not state.startswith(("40", "55P03", QUERY_CANCELED)):
                self.give_up()
            unavailable = BlockedError if state == "55P03" else UnavailableError
            raise unavailable(type(error).__name__, error.sqlstate) from None
        except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            self.give_up()
            raise UnavailableError(type(error).__name__) from None
        except asyncio.CancelledError:
            self.give_up()
            raise
        if self._unreplicated:
            raise UnavailableError("committed here, but the wait for the synchronous standby was cancelled", "01000")

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """The rows of one statement in a transaction of its own. Raises UnavailableError or RejectedError."""
        connection = await self.connection()
        async with self._guard():
            if self.pooled:
                async with _transaction_of(connection):
                    return await connection.fetch(query, *arguments)
            if (statement := self._statements.get(query)) is None:
                statement = self._statements[query] = await connection.prepare(query)
            return await statement.fetch(*arguments)

    async def apply(self, events: Sequence[PaymentEvent], *, park: bool = False) -> list[Result]:
        """apply_payment_events(): apply now; an event whose invoice is locked comes back `busy`.

        With `park` whatever is valid is stored.
        """
        return results(await self.fetch(APPLY, *columns(events), park, False))

    async def enqueue(self, events: Sequence[PaymentEvent], *, park: bool = False) -> list[Result]:
        """enqueue_payment_events(): store and queue; with `park` even an event that names no known invoice."""
        return results(await self.fetch(_ENQUEUE, *columns(events), park))

    async def link(self, links: Sequence[Link]) -> dict[Link, str]:
        """link_invoice_reference() of each, in one commit: `linked`, `duplicate`, `parked` or `conflict`."""
        if not links:
            return {}
        ordered = sorted(links, key=lambda link: (link.connection, link.reference))  # as in bury()
        rows = await self._link(*zip(*(link[:4] for link in ordered), strict=True))
        return {link: str(row[0]) for link, row in zip(ordered, rows, strict=True)}

    async def _link(self, *columns: Sequence[object]) -> list[asyncpg.Record]:
        return await self.fetch(_LINK, *columns)

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """store_dead_letter() of each, in one commit; it keeps the same letter once."""
        if letters:  # always in one order: two batches of the same letters wait, but never for each other
            columns = zip(*sorted(letters, key=lambda letter: letter[:4]), strict=True)
            await self.fetch(_BURY, *columns)

    async def claim_unfetched(self, connection: str) -> Unfetched | None:
        """claim_unfetched_delivery(): the body for which the API is to be asked again; None when none is due."""
        [row] = await self.fetch("select letter_id, body, content_type from claim_unfetched_delivery($1)", connection)
        return None if row["letter_id"] is None else Unfetched._make(row)

    async def close_fetched(self, letter: int) -> None:
        """close_fetched_delivery(): all that it reports is stored."""
        await self.fetch("select close_fetched_delivery($1)", letter)

    async def set_aside(self, facts: Sequence[Link | DeadLetter]) -> list[str]:
        """Store what is no event: link()'s outcome of each, or the reason of the dead letter that it makes.

        Raises RejectedError where one of several is refused; alone it becomes a dead letter.
        """
        links = [fact for fact in facts if isinstance(fact, Link)]
        refused = ""
        try:
            linked = await self.link(links)
        except RejectedError as error:
            if len(facts) > 1:
                raise
            refused, linked = str(error), {links[0]: "invalid"}
        outcomes = []
        letters = []
        for fact in facts:
            outcome = linked[fact] if isinstance(fact, Link) else fact.reason
            outcomes.append(outcome)
            if isinstance(fact, DeadLetter):
                letters.append(fact)
            elif outcome not in LINK_OUTCOMES:
                detail = f"reference {fact.reference}: {refused or 'it is one of another invoice already'}"
                letters.append(DeadLetter(fact.connection, outcome, detail, fact.body, fact.content_type))
        await self.bury(letters)
        return outcomes

    async def unready(self) -> str | None:
        """What keeps this database from serving this version of the service; None when nothing does."""
        member = f"grant it the role <database>_<schema>_{self.role}"
        try:
            [(version, may_call, read_only)] = await self.fetch(
                "select schema_version(), has_function_privilege($1::text::regproc, 'execute'),"
                " current_setting('transaction_read_only')::boolean",
                self.needs,
            )
        except UnavailableError as error:
            return f"the database cannot be reached ({error})"
        except RejectedError as error:
            known = {
                "42883": f"the database is not migrated; run {MIGRATE}",  # no such function
                "3D000": "there is no database of this name; create it, or correct DATABASE_URL",
            }
            return known.get(error.sqlstate or "", f"the database refuses this login ({error}); {member}")
        if version < newest_version():
            return f"the database stands at migration {version}, not {newest_version()}; run {MIGRATE}"
        if read_only:
            self.give_up()  # by default_transaction_read_only a session stays so for life
            return "the database takes no writes: it is a standby, or default_transaction_read_only is on"
        return None if may_call else f"the login may not call {self.needs}(); {member}"

    def give_up(self) -> None:
        """Let the connection go, cancelling the call it may be in; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            task = asyncio.create_task(_close(connection))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close the connection, and wait for those given up earlier."""
        self.give_up()
        await asyncio.gather(*self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Batch(NamedTuple):
    """What one call did to the queue: numbers of events, and the id of the last one claimed."""

    claimed: int
    applied: int
    duplicates: int
    parked: int
    busy: int
    failed: int
    dead: int
    last_id: int | None = None


class Release(NamedTuple):
    """What a look at parked events did; `last_id` is where to go on, None where these were the last."""

    released: int
    dead: int
    last_id: int | None


class QueueHealth(NamedTuple):
    """The row of SQL's queue_health."""

    queued: int
    retrying: int
    longest_overdue: timedelta
    parked: int
    dead: int


class QueueSession(Session):
    """The listener's connection: it hears NOTIFY, and no call takes longer than STATEMENT_TIMEOUT.

    `hear` is called with the payload of each NOTIFY on the queue's channel, `lost` when the connection ends.
    Every call raises UnavailableError or RejectedError.
    """

    role = "listener"
    needs = "process_payment_queue"

    def __init__(self, url: str, name: str, hear: Callable[[str], None], lost: Callable[[], None]):
        super().__init__(url, name)
        self._hear = hear
        self._lost = lost
        self._backend: tuple[int, datetime] | None = None
        self.opened = 0
        """How many connections there have been: another number means that watch and gate are gone."""

    async def _connect(self) -> Connection:
        connection = await super()._connect()
        self.opened += 1
        if not self.pooled:
            try:
                await self._set_up(connection)
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def _set_up(self, connection: Connection) -> None:
        # A backend whose client has vanished must not keep the watch or a claim.
        await connection.execute(_WATCHFUL)
        if self._backend is not None:  # where the network swallowed our farewell, it still holds the watch
            await connection.execute(_END_BACKEND, *self._backend)
        pid = connection.get_server_pid()
        started = await connection.fetchval("select backend_start from pg_stat_activity where pid = $1", pid)
        self._backend = (pid, started)
        connection.add_termination_listener(lambda _: self._lost())

    @property
    def connected(self) -> bool:
        """Whether the connection is there still, after an error."""
        return self._connection is not None

    @property
    def place(self) -> dict[str, str]:
        """Host and database as the URL names them; nothing where a password might be mistaken for them."""
        named = _PLACE.fullmatch(self.url)
        if named is None:
            return {}
        host = named["host"] or ",".join(parse_qs(named["query"] or "").get("host", ()))
        return {"host": host, "database": named["database"] or ""}

    async def connection(self) -> Connection:
        """As Session.connection(), within STATEMENT_TIMEOUT."""
        async with self._timed():
            return await super().connection()

    @contextlib.asynccontextmanager
    async def _timed(self, seconds: float = STATEMENT_TIMEOUT) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise UnavailableError(f"no answer within {seconds:g} s", QUERY_CANCELED) from None

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """As Session.fetch(), within STATEMENT_TIMEOUT."""
        async with self._timed():
            return await super().fetch(query, *arguments)

    @contextlib.asynccontextmanager
    async def _transaction(self, seconds: float = STATEMENT_TIMEOUT) -> AsyncIterator[Connection]:
        """The connection in a transaction of several statements, all within `seconds`."""
        connection = await self.connection()
        async with self._timed(seconds), self._guard(), _transaction_of(connection):
            yield connection

    async def _look(self, query: str, *arguments: object) -> asyncpg.Record:
        """The row of a query that PostgreSQL ends after LOOK_TIMEOUT; watch, gate and LISTEN survive that."""
        async with self._transaction() as connection:
            await connection.execute(f"set local statement_timeout = '{LOOK_TIMEOUT} s'")
            [row] = await connection.fetch(query, *arguments)
        return row

    async def _ask(self, query: str, *arguments: object) -> Any:
        return (await self.fetch(query, *arguments))[0][0]

    async def listen(self) -> None:
        """LISTEN on the queue's channel, until the connection ends."""
        channel = await self._ask("select queue_channel()")
        connection = await self.connection()
        async with self._timed(), self._guard():
            await connection.add_listener(
                channel, lambda _connection, _pid, _channel, payload: self._hear(str(payload))
            )

    async def notify(self, payload: str) -> None:
        """NOTIFY everyone who listens to the queue's channel, ourselves included."""
        await self.fetch("select pg_notify(queue_channel(), $1)", payload)

    async def try_watch(self) -> bool:
        """try_queue_watch(): whether this session is now on watch. Call it until it is, and not again."""
        async with self._timed(GATE_TIMEOUT):
            return bool(await self._ask("select try_queue_watch()"))

    async def close_gate(self) -> bool:
        """close_queue_gate(): whether every insert notifies from here on."""
        async with self._timed(GATE_TIMEOUT):
            return bool(await self._ask("select close_queue_gate()"))

    async def open_gate(self) -> None:
        """open_queue_gate(): inserts need not notify any more."""
        async with self._timed(GATE_TIMEOUT):
            await self._ask("select open_queue_gate()")

    async def report(self, name: str, poll_interval: float, *, watching: bool) -> None:
        """report_listener(): a sign of life, in listener_states; seconds until the next."""
        await self.fetch("select report_listener($1, $2, $3)", name, timedelta(seconds=poll_interval), watching)

    async def health(self) -> QueueHealth:
        """queue_health, or UnavailableError after LOOK_TIMEOUT."""
        return QueueHealth._make(await self._look(_HEALTH))

    async def process(self, size: int, after: int, *, max_attempts: int) -> Batch:
        """process_payment_queue() for events that have not failed yet: claim and apply in one statement."""
        return Batch._make((await self.fetch(_PROCESS, size, after, max_attempts))[0])

    async def release(self, after: int, *, park_days: int) -> Release:
        """look_at_parked_events(): release what has come of the SLICE parked events after the id `after`."""
        return Release._make(await self._look(_RELEASE, after, SLICE, park_days))

    async def table_lock(self) -> str | None:
        """Who keeps us from writing a table of ours, by ALTER TABLE or CREATE INDEX perhaps; None where nobody does."""
        rows = await self.fetch(_TABLE_LOCK)
        return str(rows[0][0]) if rows else None

    async def next_retry(self) -> float | None:
        """The result of seconds_to_next_retry(): negative when one is overdue, None when no event has failed."""
        seconds: float | None = await self._ask("select seconds_to_next_retry()")
        return seconds

    async def claim_and_process(
        self, claimed: list[int], size: int, after: int, *, retries: bool, max_attempts: int, seconds: float
    ) -> Batch:
        """As process(), for fresh events or for those that failed before, in two statements of one transaction.

        The ids go into `claimed` before anything is applied, so they are known when this raises.
        """
        async with self._transaction(seconds) as connection:
            claimed += await connection.fetchval("select claim_payment_events($1, $2, $3)", size, after, retries)
            row = await connection.fetchrow(_PROCESS_CLAIMED, claimed, max_attempts)
        return Batch._make((*(row or ()), max(claimed, default=None)))

    async def fail(self, event: int, error: str, max_attempts: int) -> bool:
        """fail_payment_event(): count a failed attempt; whether the event is a dead letter now."""
        return bool(await self._ask("select fail_payment_event($1, $2, $3)", event, error, max_attempts))


_PLACE = re.compile(r"\w+://(?:[^@/?#]*@)?(?P<host>[^@/?#]*)(?:/(?P<database>[^@/?#]*))?(?:[?](?P<query>[^@#]*))?")
_WATCHFUL = """
    set tcp_keepalives_idle = 5;
    set tcp_keepalives_interval = 2;
    set tcp_keepalives_count = 3;
    set tcp_user_timeout = 10000;
    set idle_in_transaction_session_timeout = 10000;
"""
_TABLE_LOCK = """
    select format('process %s has locked table %s, or waits to',
                  coalesce(l.pid::text, 'of a prepared transaction'), l.relation::regclass)
    from pg_locks l
    where l.locktype = 'relation'
      and l.database = (select d.oid from pg_database d where d.datname = current_database())
      and l.relation = any('{invoices,invoice_references,payment_events,payments,payment_reports,payment_queue,'
                           'parked_events,dead_letters,reassigned_events}'::regclass[])
      and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
      and l.pid is distinct from pg_backend_pid()
    limit 1
"""
_END_BACKEND = "select pg_terminate_backend(pid, 1000) from pg_stat_activity where pid = $1 and backend_start = $2"
_HEALTH = f"select {', '.join(QueueHealth._fields)} from queue_health"  # noqa: S608 - our names
_PROCESS = f"select {', '.join(Batch._fields)} from process_payment_queue($1, $2, false, $3)"  # noqa: S608
_RELEASE = f"select {', '.join(Release._fields)} from look_at_parked_events($1, $2, $3)"  # noqa: S608 - our names
_PROCESS_CLAIMED = f"select {', '.join(Batch._fields[:7])} from process_claimed_events($1, $2)"  # noqa: S608


def each_host(url: str) -> list[str]:
    """The URL for each of its hosts: asyncpg would give all the time there is to a first one that says nothing."""
    before, hosts, rest = re.match(r"(\w+://(?:[^@/?#]*@)?|)([^/?#]*)(.*)", url, re.DOTALL).groups()  # type: ignore[union-attr]
    return [f"{before}{host}{rest}" for host in hosts.split(",")]


@contextlib.asynccontextmanager
async def _transaction_of(connection: Connection) -> AsyncIterator[None]:
    transaction = connection.transaction(isolation="read_committed")
    await transaction.start()
    try:
        yield
    except asyncpg.PostgresError:  # not when cancelled: over a dead network the rollback would wait for ever
        if not connection.is_closed():
            await transaction.rollback()
        raise
    await transaction.commit()


async def _close(connection: Connection) -> None:
    with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        await connection.close(timeout=CLOSE_TIMEOUT)


def call(fields: Sequence[str], function: str, *named: str) -> str:
    """Calls a set-wise function for `fields`: an array for each field of PaymentEvent, then the parameters named."""
    arrays = [f"${number}" for number in range(1, len(PaymentEvent._fields) + 1)]
    others = [f"{name} => ${number}" for number, name in enumerate(named, len(arrays) + 1)]
    return f"select {', '.join(fields)} from {function}({', '.join(arrays + others)})"  # noqa: S608 - our names


_LINK = """
    select link_invoice_reference(l.connection, l.reference, l.invoice_id, l.invoice_reference)
    from unnest($1::text[], $2::bigint[], $3::text[], $4::text[])
        l(reference, invoice_id, invoice_reference, connection)
"""
_BURY = """
    select store_dead_letter(l.connection, l.reason, l.detail, l.body, l.content_type, l.event_id)
    from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[])
        l(connection, reason, detail, body, content_type, event_id)
"""
APPLY = call(Result._fields, "apply_payment_events", "p_deliveries", "p_park", "p_wait")
_ENQUEUE = call(RECEIPT, "enqueue_payment_events", "p_deliveries", "p_park")


def columns(events: Sequence[PaymentEvent]) -> list[Sequence[object] | None]:
    """The events' fields as parallel arrays; a field that none of them gives needs no array.

    The last array says in which event's body each came, needed only where a request reported several.
    """
    first: dict[int, int] = {}
    deliveries = [first.setdefault(id(event.body), position) for position, event in enumerate(events, 1)]
    given: list[Sequence[object] | None] = [
        None if column.count(None) == len(column) else column for column in zip(*events, strict=True)
    ]
    return [*given, None if len(first) == len(events) else deliveries]


def results(rows: list[asyncpg.Record]) -> list[Result]:
    """The rows of a set-wise function."""
    return [Result(*row) for row in rows]

"""`python -m service.listener`: applies what the queue holds, milliseconds after it came. Run as many as you like.

One of them is on watch: while it sleeps, inserts notify; while it works, they need not (see close_queue_gate()). The
others are in reserve. NOTIFY is only the speed: every POLL_INTERVAL each looks at everything whatever it heard.
"""

import asyncio
import contextlib
import math
import os
import random
import secrets
import socket

import structlog
from prometheus_client import Counter, Gauge, Histogram

from service import admin, process
from service.database import (
    QUERY_CANCELED,
    STATEMENT_TIMEOUT,
    Batch,
    QueueSession,
    RejectedError,
    Release,
    UnavailableError,
)
from service.settings import Settings

LINGER = 0.010
"""Seconds without work after which the listener on watch closes the gate."""
NAP = 0.001
"""Seconds between two looks until then."""
REFUSED = 0.050
"""Seconds until it tries again, when a long transaction kept the gate from being closed."""
REFUSED_NAP = 0.005
"""Seconds between two looks until then: such a transaction may last for hours."""
CHECK_TIMEOUT = 2.0
"""Seconds in which our own NOTIFY has to come back."""
BUSY = 0.55
"""Seconds until the next look for what was busy, which is due after 0.5 s."""
BACKOFF = (0.05, 1.0)
"""Seconds between two tries to reach the database: the first pause, and the longest."""
LOOK_BACK = 10_000
"""Ids below the last one claimed that a quick look covers: transactions do not commit in the order of their ids."""
SHARE = 10
"""What may take long (a look from the first id on, over all that vacuum has left, or at parked events; measuring the
queue; a retry that spoils its transaction) may come once in so many times what it took last."""
NARROWING = 16
"""A batch that fails as a whole is divided by this, and again, until the event that does it is claimed alone."""
NARROWING_TIMEOUT = 1.0
"""Seconds for such a part; an event alone has all of STATEMENT_TIMEOUT."""
LOSSES = 3
"""Connections lost in a row over the same event, alone in its transaction, that are its own fault and no restart."""
HELP = "help"
"""Payload of the NOTIFY that calls the listeners in reserve."""
ALL = -1
"""The id to start after for a look at everything; process_payment_queue() looks at parked events only after 0."""
NAME = f"{socket.gethostname()}:{os.getpid()}"
"""What this listener is called where the operator looks."""
TRIED_AGAIN = "it is tried again by itself; select * from waiting_events"
DEAD = "select * from open_dead_letters; mend the cause, then select retry_dead_letter(id)"

_log = structlog.get_logger()
_events = Counter("payment_webhooks_events", "Queued events by what became of them", ["outcome"])
_wakes = Counter("payment_webhooks_listener_wakeups", "What ended the listener's sleep", ["cause"])
_latency = Histogram(
    "payment_webhooks_listener_wake_seconds",
    "From a NOTIFY to the commit of what it was about",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
)
_connects = Counter("payment_webhooks_listener_connections", "Connections opened")
_waiting = Gauge("payment_webhooks_queue_events", "Events that wait, at the last poll", ["state"])
_overdue = Gauge("payment_webhooks_queue_overdue_seconds", "How long the oldest event has been due, at the last poll")
_watch = Gauge("payment_webhooks_listener_watch", "1 while this listener is on watch, 0 in reserve")


class Listener:
    """A listener and its connection."""

    def __init__(self, settings: Settings, stop: asyncio.Event):
        self.settings = settings
        self._stop = stop
        self._woken = asyncio.Event()
        self._cause, self._woken_at = "", -math.inf  # of the last wake
        self._echo = asyncio.Event()
        self._token = ""
        self.session = QueueSession(
            settings.required_database_url, "payment_webhooks listener", self._hear, lambda: self._wake("lost")
        )
        self.watching = False
        self._counted = self._arrived = 0  # the session's connections: those in the metric; the one that we have set up
        self._pause = 0.0  # the last one before the database was tried again; 0 once a batch succeeded
        self._unready: str | None = "not connected yet"
        self._last_poll = -math.inf
        self._next_poll = -math.inf
        self._next_retry = math.inf
        self._retrying = False  # whether events that have failed are known to wait
        self._spoilt_until = -math.inf  # when retries may go on after one spoilt its transaction
        self._next_full = self._next_release = self._next_measure = -math.inf
        self._parked_after = 0  # where the look at parked events goes on, and the seconds it has taken so far
        self._looking = 0.0
        self._linger_until = -math.inf
        self._refused_until = -math.inf
        self._mark = 0  # the highest id claimed
        self._suspects = {False: 0, True: 0}  # by whether they failed before: how many events one of which did it
        self._losses = (0, 0)  # the event that was alone when the connection was last lost, and how often in a row
        self._blamed: tuple[int, str] | None = None
        self._polls_only = False

    def _hear(self, payload: str) -> None:
        if payload == self._token:
            self._echo.set()
        elif payload == ("" if self.watching else HELP):
            self._wake("notify")

    def _wake(self, cause: str) -> None:
        if not self._woken.is_set():
            self._cause, self._woken_at = cause, _now()
            self._woken.set()

    async def run(self) -> None:
        """Work until the stop event; what goes wrong with the database is logged, and tried again."""
        stopping = asyncio.create_task(self._wake_at_stop())
        try:
            while not self._stop.is_set():
                try:
                    await self.run_once()
                except (UnavailableError, RejectedError) as error:
                    await self._back_off(error)
        finally:
            stopping.cancel()
            _watch.set(0)
            await self.session.close()

    async def _wake_at_stop(self) -> None:
        await self._stop.wait()
        self._wake("stop")

    async def _back_off(self, error: UnavailableError | RejectedError) -> None:
        if isinstance(error, RejectedError):
            self._unready = await self.session.unready()
        elif str(error) != self._unready:  # of an earlier error
            self._unready = None
        if not self._pause:
            _log.warning("database_unavailable", error=self._unready or str(error), sqlstate=error.sqlstate)
        self._next_poll = -math.inf  # this may have cut one short
        self._unready = self._unready or f"the database cannot be reached ({error})"
        self._pause = min(2 * self._pause, BACKOFF[1]) or BACKOFF[0]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), self._pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter

    async def run_once(self) -> None:
        """Look once at whatever is due, apply it, and sleep if nothing is. Raises UnavailableError, RejectedError."""
        heard = self._woken_at if self._woken.is_set() and self._cause == "notify" else None
        self._woken.clear()  # before the look: what is told from here on may come too late for it
        await self.session.connection()
        if self.session.opened != self._arrived:
            await self._arrive()
        self._unready = None
        if self._blamed is not None:
            await self._record_failure(*self._blamed)
        now = _now()
        found = 0
        if now >= self._next_poll:
            found += await self._poll()
        elif now >= self._next_retry:
            self._next_retry = math.inf
            found += await self._drain(retries=True)
            self._next_full = -math.inf
        found += await self._drain()
        if self._retrying:
            await self._plan_retry()
        if found and heard is not None:
            _latency.observe(_now() - heard)
        if self._stop.is_set():
            return
        if not self.watching:
            await self._sleep()
            return
        if found:
            self._linger_until = _now() + LINGER
            return
        if _now() < max(self._linger_until, self._refused_until):
            with contextlib.suppress(TimeoutError):  # whoever met us at the gate has told us
                async with asyncio.timeout(NAP if _now() < self._linger_until else REFUSED_NAP):
                    await self._woken.wait()
        else:
            await self._sleep_behind_the_gate()

    async def unready(self) -> str | None:
        """What keeps this listener from doing its work; None when nothing does."""
        if self._unready is not None:
            return self._unready
        if self._last_poll == -math.inf:
            return "it has not looked at the queue yet"
        age = _now() - self._last_poll
        if age > 3 * self.settings.poll_interval:
            return f"the last look at the queue was {age:.0f} s ago"
        return None

    async def _arrive(self) -> None:
        """Set up a new connection; what came while there was none is looked for at once."""
        self.watching = False
        _connects.inc(self.session.opened - self._counted)
        self._counted = self.session.opened
        self._unready = await self.session.unready()
        if self._unready is not None:
            raise UnavailableError(self._unready)
        if not self.session.pooled:
            await self.session.listen()
        elif not self._polls_only:
            self._polls_only = True
            _log.warning(
                "listener_polls_only",
                reason="a pooler stands between; give DATABASE_URL of the database itself to be woken at once",
            )
        self._arrived = self.session.opened
        self._next_poll = self._next_full = -math.inf

    async def _poll(self) -> int:
        """Look at everything, retries and parked events included, check that we hear, and measure the queue."""
        self._next_poll = _now() + self.settings.poll_interval
        if not self.session.pooled:
            if not self.watching:
                self.watching = await self.session.try_watch()
                if self.watching:
                    _log.info("listener_on_watch")
            _watch.set(self.watching)
        self._next_full = -math.inf
        found = await self._drain(retries=True) + await self._drain() + await self._release()
        self._last_poll = _now()
        await self.session.report(NAME, self.settings.poll_interval, watching=self.watching)
        if not self.session.pooled:
            await self._check_hearing()  # after the work, so that a listener that stays deaf still does it
        await self._measure()
        return found

    async def _release(self) -> int:
        """Look at the parked events, slice by slice with work between; should that fail, no queued event is to blame.

        A look that takes longer than until the next poll is continued there.
        """
        found = 0
        if self._parked_after == 0:
            if _now() < self._next_release:
                return 0
            self._looking = 0.0
        while not self._stop.is_set() and _now() < self._next_poll:
            started = _now()
            try:
                looked = await self.session.release(self._parked_after, park_days=self.settings.park_days)
            except (UnavailableError, RejectedError) as error:
                self._give_way(error, "parked_events_not_looked_at")
                looked = Release(0, 0, None)
            self._looking += _now() - started
            if looked.dead:
                _log.warning("parked_events_expired", dead=looked.dead, hint=DEAD)
                _events.labels("dead").inc(looked.dead)
            if looked.released:
                self._next_full = -math.inf  # they may have the oldest ids of all
            found += looked.released + await self._drain()
            self._parked_after = looked.last_id or 0
            if self._parked_after == 0:
                self._next_release = _now() + SHARE * self._looking
                break
        return found

    async def _measure(self) -> None:
        started = _now()
        if started < self._next_measure:
            return
        first = self._next_measure == -math.inf
        try:
            health = await self.session.health()
        except (UnavailableError, RejectedError) as error:
            self._give_way(error, "queue_not_measured")
            return
        finally:
            self._next_measure = _now() + SHARE * (_now() - started)
        self._retrying = health.retrying > 0
        for state in ("queued", "retrying", "parked", "dead"):
            _waiting.labels(state).set(getattr(health, state))
        _overdue.set(health.longest_overdue.total_seconds())
        if first:
            _log.info("listener_connected", queued=health.queued, parked=health.parked, dead=health.dead)

    def _give_way(self, error: UnavailableError | RejectedError, what: str) -> None:
        """Log what need not keep us from work. Raises the error where the connection went with it."""
        if not self.session.connected:
            raise error
        _log.warning(what, error=str(error), sqlstate=error.sqlstate, hint="explain analyze select * from queue_health")

    async def _check_hearing(self) -> None:
        """Hear a NOTIFY of our own, or give the connection up: LISTEN can be lost while queries succeed."""
        self._token = secrets.token_hex(8)
        self._echo.clear()
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                if await self._notify(self._token):
                    await self._echo.wait()
        except TimeoutError:
            self.session.give_up()
            raise UnavailableError(f"our own NOTIFY did not come back within {CHECK_TIMEOUT:g} s") from None

    async def _notify(self, payload: str) -> bool:
        """Whether it could be sent: a full notification queue refuses, and does not keep us from work."""
        try:
            await self.session.notify(payload)
        except RejectedError as error:
            _log.warning("notify_failed", sqlstate=error.sqlstate)
            return False
        return True

    async def _drain(self, *, retries: bool = False) -> int:
        """Apply what is due until nothing is left, we are to stop, or the poll is due; return how much there was."""
        found, more, called, look_back = 0, True, False, LOOK_BACK
        while (
            more
            and not self._stop.is_set()
            and (self._spoilt_until if retries else -math.inf) <= _now() < self._next_poll
        ):
            full = retries or self._suspects[False] or _now() >= self._next_full
            batch, more = await self._batch(ALL if full else max(ALL, self._mark - look_back), retries=retries)
            look_back = 0  # after a full batch nothing but the next look at everything need go back
            found += batch.claimed
            if more and self.watching and not called:
                called = True
                await self._notify(HELP)
        return found

    async def _batch(self, after: int, *, retries: bool) -> tuple[Batch, bool]:
        """Apply a batch; also whether there may be more of the kind.

        One that fails as a whole is divided from call to call until the event that does it is claimed alone.
        """
        suspects = self._suspects[retries]
        size = max(1, suspects // NARROWING) if suspects else self.settings.batch_size
        seconds = NARROWING_TIMEOUT if suspects and size > 1 else STATEMENT_TIMEOUT
        claimed: list[int] = []
        started = _now()
        try:
            if suspects or retries:
                batch = await self.session.claim_and_process(
                    claimed, size, after, retries=retries, max_attempts=self.settings.max_attempts, seconds=seconds
                )
            else:
                batch = await self.session.process(size, after, max_attempts=self.settings.max_attempts)
        except (UnavailableError, RejectedError) as error:
            if retries:
                self._spoilt_until = _now() + SHARE * (_now() - started)
                self._next_retry = min(self._next_retry, self._spoilt_until)
            await self._suspect(error, claimed, size, retries=retries, alone=seconds == STATEMENT_TIMEOUT)
            return Batch(*[0] * 7), True
        if self._pause:
            _log.info("database_available")
            self._pause = 0.0
        if after == ALL and not retries:
            self._next_full = _now() + max(LINGER, SHARE * (_now() - started))
        if batch.last_id is not None and not retries:
            self._mark = max(self._mark, batch.last_id)
        self._suspects[retries] = max(0, suspects - size) if batch.claimed == size else 0
        self._count(batch)
        return batch, batch.claimed == size

    async def _suspect(
        self, error: UnavailableError | RejectedError, claimed: list[int], size: int, *, retries: bool, alone: bool
    ) -> None:
        """Narrow down which event failed the batch. Raises if none did, or if the connection is gone.

        `alone` says that an event that was claimed alone has had all the time that it may have.
        """
        connected = self.session.connected  # asking for the lock opens another
        if error.sqlstate == QUERY_CANCELED and (lock := await self.session.table_lock()) is not None:
            raise UnavailableError(lock)
        apart = retries or self._suspects[retries] > 0
        if not _is_the_batchs(error) or (apart and not claimed):
            if isinstance(error, RejectedError):
                self._suspects[retries] = 0  # not even the claim succeeds
            raise error
        _log.warning("batch_failed", events=len(claimed) or size, error=str(error), sqlstate=error.sqlstate)
        self._suspects[retries] = len(claimed) or size
        if len(claimed) == 1 and alone and self._is_its_fault(error, claimed[0]):
            self._suspects[retries] = 0
            state = f" (SQLSTATE {error.sqlstate})" if isinstance(error, UnavailableError) and error.sqlstate else ""
            self._blamed = (claimed[0], f"its transaction failed as a whole: {error}{state}")
        if not connected:
            raise error
        if self._blamed is not None:
            await self._record_failure(*self._blamed)

    def _is_its_fault(self, error: UnavailableError | RejectedError, event: int) -> bool:
        """Whether the event that was alone is to blame; for a lost connection only if it loses one after another."""
        if isinstance(error, RejectedError) or error.sqlstate == QUERY_CANCELED:
            return True
        last, times = self._losses
        self._losses = (event, times + 1 if event == last else 1)
        return self._losses[1] >= LOSSES

    async def _record_failure(self, event: int, error: str) -> None:
        try:
            dead = await self.session.fail(event, error, self.settings.max_attempts)
        except RejectedError:
            self._blamed = None  # or nothing would be done ever again; the event will fail once more
            raise
        self._blamed = None
        _log.warning("event_failed", id=event, error=error, dead=dead, hint=DEAD if dead else TRIED_AGAIN)
        _events.labels("failed").inc()
        _events.labels("dead").inc(dead)
        self._retrying = True

    def _count(self, batch: Batch) -> None:
        for outcome, number in zip(
            ("applied", "duplicate", "parked", "busy", "failed", "dead"), batch[1:7], strict=True
        ):
            _events.labels(outcome).inc(number)
        if batch.failed or batch.dead:
            _log.warning(
                "events_failed", failed=batch.failed, dead=batch.dead, hint=DEAD if batch.dead else TRIED_AGAIN
            )
        if batch.busy:
            self._next_retry = min(self._next_retry, _now() + BUSY)
        self._retrying |= batch.failed > 0

    async def _plan_retry(self) -> None:
        """Be there when the next event that has failed is due; one that is overdue is in somebody else's hands."""
        seconds = await self.session.next_retry()
        self._retrying = False
        if seconds is not None:
            self._next_retry = min(self._next_retry, _now() + (seconds if seconds > 0 else BUSY))

    async def _sleep_behind_the_gate(self) -> None:
        """Sleep once every insert notifies. While somebody's transaction prevents that, only nap."""
        self._woken.clear()
        if not await self.session.close_gate():
            self._refused_until = _now() + REFUSED
            self._next_full = -math.inf  # what that transaction brings may have ids far below the last
            return
        try:
            batch, more = await self._batch(ALL, retries=False)
            if batch.claimed or more:
                self._linger_until = _now() + LINGER
            else:
                await self._sleep()
            await self.session.open_gate()
        except (UnavailableError, RejectedError):
            self.session.give_up()  # the gate goes with it
            raise

    async def _sleep(self) -> None:
        """Sleep until a NOTIFY, the next retry, the poll, the end of the connection, or the stop event."""
        if self._stop.is_set():
            return
        until = min(self._next_poll, self._next_retry)
        try:
            async with asyncio.timeout_at(until):
                await self._woken.wait()
        except TimeoutError:
            self._cause = "poll" if until == self._next_poll else "retry"
        _wakes.labels(self._cause).inc()


def _is_the_batchs(error: UnavailableError | RejectedError) -> bool:
    """Whether an event may have caused it: refused, timed out, or the backend died over it."""
    state = error.sqlstate
    return isinstance(error, RejectedError) or state is None or state.startswith(("08", "57"))


def _now() -> float:
    return asyncio.get_running_loop().time()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Listen until `stop`, which lets the batch in hand commit. Raises SettingsError where there is no DATABASE_URL."""
    await Listener(settings, stop).run()


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """As run(), with health and metrics on ADMIN_PORT. Raises SettingsError when that cannot be had."""
    listener = Listener(settings, stop)
    runner = await admin.start(settings, admin.health_routes(listener.unready))
    try:
        _log.info(
            "listener_started",
            **listener.session.place,
            admin_port=settings.admin_port,
            poll_interval=settings.poll_interval,
        )
        await listener.run()
    finally:
        await runner.cleanup()
        _log.info("listener_stopped")


def main() -> None:
    """Run the listener with the settings of the environment."""
    process.run(serve, admin_port=8082)


if __name__ == "__main__":
    main()

"""Many requests, one call: what arrives while a commit is in flight shares the next one.

A lone request is not delayed, and each is answered after the commit that holds it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

PATIENCE = 0.020
"""Seconds that a batch may be in flight before another lane helps."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Flush: TypeAlias = Callable[[Sequence[Item]], Awaitable[Sequence[Outcome]]]
"""Commits a batch; one outcome for each item, in order."""


class OverloadedError(Exception):
    """Too many items wait already, or too long; nothing was done with this one."""


class DeadlineError(Exception):
    """The item's commit did not end in time: whether it still will is not known."""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Outcome]):
    item: Item
    outcome: asyncio.Future[Outcome]
    deadline: float

    def fail(self, error: Exception) -> None:
        if not self.outcome.done():  # the client may have left
            self.outcome.set_exception(error)


class GroupCommit(Generic[Item, Outcome]):
    """A bounded queue in front of some lanes, each of which commits one batch at a time by its flush.

    One lane works alone, since large batches cost least; another helps while that one's batch is late.
    A batch that raises one of `splits` is tried again in halves, so that an item which breaks its batch gets its own
    error and the others succeed; any other exception is the answer to the whole batch. `deadline` is in seconds: a
    batch ends with its youngest item's, whoever awaits an older one has a clock of his own. While the oldest that waits
    for a lane has spent half of it, no more are taken: late batches would be full of what nobody waits for any more.
    `on_batch` is told each batch's size.
    """

    def __init__(
        self,
        lanes: Sequence[Flush[Item, Outcome]],
        *,
        splits: tuple[type[Exception], ...],
        deadline: float,
        on_batch: Callable[[int], None],
        max_batch: int = 250,
        max_waiting: int = 2000,
    ):
        self._idle = list(lanes)
        self._busy = self._late = 0  # lanes at work, and those of them whose batch is late
        self._splits = splits
        self._deadline = deadline
        self._on_batch = on_batch
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: deque[_Waiting[Item, Outcome]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many items wait for a lane."""
        return len(self._waiting)

    def submit(self, item: Item) -> asyncio.Future[Outcome]:
        """The future outcome of `item`; cancelling it cancels nobody's commit.

        Raises OverloadedError at once. The future raises DeadlineError, or what the flush raised.
        """
        loop = asyncio.get_running_loop()
        is_late = self._waiting and self._waiting[0].deadline - loop.time() < self._deadline / 2
        if is_late or len(self._waiting) >= self._max_waiting:
            raise OverloadedError
        waiting = _Waiting[Item, Outcome](item, loop.create_future(), loop.time() + self._deadline)
        self._waiting.append(waiting)
        self._start()
        return waiting.outcome

    def _start(self) -> None:
        """Start a lane, unless one is at work that will soon be back."""
        if self._idle and self._waiting and self._busy == self._late:
            self._busy += 1
            task = asyncio.create_task(self._run(self._idle.pop()))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Wait until everything submitted is answered."""
        while self._running:  # one that is late may call for help meanwhile
            await asyncio.gather(*self._running)

    async def _run(self, flush: Flush[Item, Outcome]) -> None:
        try:
            while self._waiting and self._busy - self._late == 1:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_batch))]
                self._on_batch(len(batch))
                with self._helped():
                    await self._commit(flush, batch)
        finally:
            self._busy -= 1
            self._idle.append(flush)

    @contextlib.contextmanager
    def _helped(self) -> Iterator[None]:
        """Have another lane help once the block has taken longer than PATIENCE."""
        late = False

        def help_it() -> None:
            nonlocal late
            late = True
            self._late += 1
            self._start()

        timer = asyncio.get_running_loop().call_later(PATIENCE, help_it)
        try:
            yield
        finally:
            timer.cancel()
            self._late -= late

    async def _commit(self, flush: Flush[Item, Outcome], batch: list[_Waiting[Item, Outcome]]) -> None:
        try:
            async with asyncio.timeout_at(batch[-1].deadline):
                outcomes = await flush([waiting.item for waiting in batch])
            for waiting, outcome in zip(batch, outcomes, strict=True):
                if not waiting.outcome.done():
                    waiting.outcome.set_result(outcome)
        except TimeoutError:
            for waiting in batch:
                waiting.fail(DeadlineError())
        except Exception as error:  # noqa: BLE001 - it is the answer to whoever submitted
            if isinstance(error, self._splits) and len(batch) > 1:
                middle = len(batch) // 2
                await self._commit(flush, batch[:middle])
                await self._commit(flush, batch[middle:])
                return
            for waiting in batch:
                waiting.fail(error)

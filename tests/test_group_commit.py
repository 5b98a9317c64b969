"""Group commit alone, over flushes that a test holds in its hand; over PostgreSQL see test_server.py."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

import pytest

from service import group_commit
from service.group_commit import DeadlineError, GroupCommit, OverloadedError


class PoisonError(Exception):
    """A batch that holds a negative number."""


class Flush:
    """Doubles numbers once its gate is open, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await self.gate.wait()
        if min(items) < 0:
            raise PoisonError
        return [2 * item for item in items]


def commit(
    *lanes: Flush, deadline: float = 5, max_waiting: int = 100, max_batch: int = 50, sizes: list[int] | None = None
) -> GroupCommit[int, int]:
    return GroupCommit(
        lanes,
        splits=(PoisonError,),
        deadline=deadline,
        on_batch=(sizes if sizes is not None else []).append,
        max_batch=max_batch,
        max_waiting=max_waiting,
    )


async def test_what_arrives_during_a_flush_shares_the_next_one_and_each_gets_its_own_answer() -> None:
    flush, sizes = Flush(), list[int]()
    group = commit(flush, sizes=sizes)
    flush.gate.clear()
    first = group.submit(1)
    await asyncio.sleep(0)
    others = [group.submit(number) for number in range(2, 40)]
    flush.gate.set()
    assert await asyncio.gather(first, *others) == [2 * number for number in range(1, 40)]
    assert sizes == [1, 38]


async def test_a_lone_item_starts_at_once() -> None:
    flush = Flush()
    future = commit(flush).submit(1)
    await asyncio.sleep(0)
    assert flush.batches == [[1]]
    assert await future == 2


async def test_an_item_that_breaks_its_batch_gets_its_own_error_and_the_others_succeed() -> None:
    flush = Flush()
    group = commit(flush)
    answers = await asyncio.gather(*(group.submit(n) for n in [1, 2, -3, 4, 5, -6, 7]), return_exceptions=True)
    assert [a if isinstance(a, int) else type(a) for a in answers] == [2, 4, PoisonError, 8, 10, PoisonError, 14]


async def test_another_error_is_the_answer_to_the_whole_batch_and_the_next_batch_succeeds() -> None:
    async def broken(_: Sequence[int]) -> list[int]:
        raise OSError("gone")

    flushes: Iterator[group_commit.Flush[int, int]] = iter([broken, Flush()])

    async def lane(items: Sequence[int]) -> Sequence[int]:
        return await next(flushes)(items)

    group = GroupCommit(lanes=[lane], splits=(PoisonError,), deadline=5, on_batch=lambda _: None)
    answers = await asyncio.gather(group.submit(1), group.submit(2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [OSError, OSError]
    assert await group.submit(3) == 6


async def test_a_client_that_leaves_cancels_nobodys_commit() -> None:
    flush = Flush()
    group = commit(flush)
    flush.gate.clear()
    leaving, staying = group.submit(1), group.submit(2)
    await asyncio.sleep(0)
    leaving.cancel()
    flush.gate.set()
    assert await staying == 4
    assert flush.batches == [[1, 2]]


async def test_a_full_queue_refuses_at_once_and_recovers() -> None:
    flush = Flush()
    group = commit(flush, max_waiting=3, max_batch=1)
    flush.gate.clear()
    accepted = [group.submit(0)]
    await asyncio.sleep(0)  # the lane has taken it, the queue is empty again
    accepted += [group.submit(n) for n in (1, 2, 3)]
    with pytest.raises(OverloadedError):
        group.submit(4)
    flush.gate.set()
    assert await asyncio.gather(*accepted) == [0, 2, 4, 6]
    assert await group.submit(5) == 10


async def test_no_item_waits_longer_than_the_deadline_behind_a_flush_that_hangs() -> None:
    flush = Flush()
    group = commit(flush, deadline=0.2, max_batch=1)
    flush.gate.clear()
    started = asyncio.get_running_loop().time()
    futures = [group.submit(n) for n in range(5)]
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert {type(answer) for answer in answers} == {DeadlineError}
    assert asyncio.get_running_loop().time() - started < 0.4
    flush.gate.set()
    assert await group.submit(7) == 14


async def test_under_overload_it_answers_nearly_as_many_as_it_can_commit() -> None:
    async def flush(items: Sequence[int]) -> Sequence[int]:
        await asyncio.sleep(0.002 * len(items))  # 500 a second
        return items

    group = GroupCommit([flush], splits=(), deadline=1, on_batch=lambda _: None, max_batch=250)
    answered = 0

    async def ask(number: int) -> None:
        nonlocal answered
        with contextlib.suppress(DeadlineError, OverloadedError, TimeoutError):
            async with asyncio.timeout(1):
                await group.submit(number)
            answered += 1

    async with asyncio.TaskGroup() as tasks:
        for number in range(750):  # 1,500 a second for 3 s
            for _ in range(6):
                tasks.create_task(ask(number))
            await asyncio.sleep(0.004)
    await group.close()
    assert answered > 0.4 * 500 * 3


async def test_one_lane_works_alone_and_another_helps_while_its_batch_is_late() -> None:
    slow, helper = Flush(), Flush()
    slow.gate.clear()
    group = commit(helper, slow)  # the last is taken first
    stuck = group.submit(1)
    await asyncio.sleep(0)
    others = [group.submit(2), group.submit(3)]
    await asyncio.sleep(0)
    assert (slow.batches, helper.batches) == ([[1]], [])
    assert await asyncio.gather(*others) == [4, 6]
    assert await group.submit(4) == 8
    assert helper.batches == [[2, 3], [4]]
    helper.gate.clear()
    late_too = group.submit(5)
    await asyncio.sleep(2 * group_commit.PATIENCE)
    waiting = group.submit(6)
    slow.gate.set()
    assert (await stuck, await waiting) == (2, 12)
    assert slow.batches == [[1], [6]]
    helper.gate.set()
    assert await late_too == 10
    for number in range(7, 20):  # one alone again, whichever
        before = len(slow.batches) + len(helper.batches)
        one, other = group.submit(number), group.submit(0)
        assert (await one, await other) == (2 * number, 0)
        assert len(slow.batches) + len(helper.batches) == before + 1


async def test_of_two_lanes_at_work_one_stops_once_neither_is_late() -> None:
    first, second = Flush(), Flush()
    first.gate.clear()
    second.gate.clear()
    group = commit(second, first, max_batch=1)
    futures = [group.submit(number) for number in range(4)]
    await asyncio.sleep(1.5 * group_commit.PATIENCE)
    assert (first.batches, second.batches) == ([[0]], [[1]])
    first.gate.set()
    await asyncio.sleep(0.2 * group_commit.PATIENCE)
    assert (first.batches, second.batches) == ([[0]], [[1]])  # the second is not late yet
    second.gate.set()
    assert await asyncio.gather(*futures) == [0, 2, 4, 6]
    assert second.batches == [[1], [2], [3]]


async def test_close_waits_for_a_lane_that_helped_meanwhile() -> None:
    slow, helper = Flush(), Flush()
    slow.gate.clear()
    helper.gate.clear()
    group = commit(helper, slow, max_batch=1)
    futures = [group.submit(1), group.submit(2)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(group.close())
    await asyncio.sleep(2 * group_commit.PATIENCE)
    slow.gate.set()
    await futures[0]
    await asyncio.sleep(0)
    assert not closing.done()
    helper.gate.set()
    await closing
    assert futures[1].result() == 4


async def test_close_waits_for_what_was_submitted() -> None:
    flush = Flush()
    group = commit(flush)
    flush.gate.clear()
    future = group.submit(1)
    closing = asyncio.create_task(group.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    flush.gate.set()
    await closing
    assert future.result() == 2

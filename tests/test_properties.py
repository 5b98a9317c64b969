"""Whatever order, repetition, split and path: the invoices end as the set of distinct events says."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.calls import (
    Event,
    add_invoice,
    add_reference,
    apply_each,
    apply_together,
    assert_consistent,
    drain,
    enqueue_each,
    enqueue_together,
    process,
)
from tests.conftest import Connection

# One database for all examples: each takes invoice ids and connections of its own. At a desk every run tries other
# examples; where CI is set in the environment hypothesis derandomizes, so that no change fails for what it did not do.
# A failure shrinks and prints a blob that @reproduce_failure replays.
in_one_database = settings(
    max_examples=250, deadline=None, print_blob=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
examples = itertools.count(1)

AMOUNT = 1000  # of each invoice
KINDS = ["payment", "refund", "chargeback"]


# Part 1: any order leads to the same invoices.


@dataclass
class Movement:
    """Money that moves, and the events that report it."""

    kind: str
    invoice: int  # position among the example's invoices
    amount: int
    base: "Movement | None" = None
    events: list[Event] = field(default_factory=list)
    missing: bool = False  # what it is about never comes

    @property
    def posts(self) -> bool:
        return not self.missing and (self.base is None or self.base.posts)


@dataclass(frozen=True)
class Insert:
    """An invoice and, a step of its own, the names by which the connections know it."""

    invoice: int
    names: bool


@dataclass(frozen=True)
class Batch:
    events: tuple[Event, ...]
    path: str
    park: bool


@dataclass(frozen=True)
class Drain:
    size: int


Step = Insert | Batch | Drain


@dataclass
class Scenario:
    first_invoice: int
    invoices: int
    connections: list[str]
    movements: list[Movement]
    steps: list[Step]

    def expected(self) -> list[tuple[int, str, int, int, int]]:
        """Each invoice as the movements that post leave it."""
        sums: list[Counter[str]] = [Counter() for _ in range(self.invoices)]
        for movement in self.movements:
            if movement.posts:
                kind, _, reversal = movement.kind.partition("_")
                sums[movement.invoice][kind] += -movement.amount if reversal else movement.amount
        return [
            (self.first_invoice + n, status(s["payment"], s["refund"], s["chargeback"]),
             s["payment"], s["refund"], s["chargeback"])
            for n, s in enumerate(sums)
        ]  # fmt: skip


def status(paid: int, refunded: int, charged_back: int) -> str:
    net = paid - refunded - charged_back
    if net >= AMOUNT:
        return "paid"
    if paid <= 0:
        return "sent"
    if charged_back > 0:
        return "charged_back"
    if net <= 0:
        return "refunded"
    return "partially_refunded" if refunded > 0 else "partially_paid"


@st.composite
def movements_of(draw: st.DrawFn, connection: str, first_invoice: int, invoices: int) -> list[Movement]:
    """Payments, then what refers to them, then reversals. Ids and references are the same in every connection."""
    numbers = itertools.count(1)
    movements: list[Movement] = []

    def report(movement: Movement, reference: str | None, parent: str | None, ways: list[str]) -> None:
        # Whichever way the invoice is named, it is the same one; two reports may name it in two ways.
        for _ in range(draw(st.integers(1, 2)) if reference else 1):
            way = draw(st.sampled_from(ways))
            movement.events.append(Event(
                f"evt_{next(numbers)}",
                first_invoice + movement.invoice if way == "id" else None,
                movement.amount, movement.kind, draw(st.sampled_from([None, "USD"])), connection, reference, parent,
                f"INV-{first_invoice + movement.invoice}" if way == "name" else None,
            ))  # fmt: skip
        movements.append(movement)

    invoice = st.integers(0, invoices - 1)
    amount = st.sampled_from([1, 300, 500, 1000, 1500])
    referenced: list[tuple[Movement, str]] = []
    for number in range(draw(st.integers(0, 3))):
        reference = draw(st.sampled_from([f"m{number}", f"m{number}", None]))
        payment = Movement("payment", draw(invoice), draw(amount))
        report(payment, reference, None, ["id", "name"])
        if reference:
            referenced.append((payment, reference))
    payments = list(referenced)
    for number in range(draw(st.integers(0, 3))):
        about, parent = draw(st.sampled_from([*payments, (None, "never"), (None, None)]))
        reference = draw(st.sampled_from([f"m{number}", f"m{number}", None]))
        movement = Movement(draw(st.sampled_from(KINDS[1:])), about.invoice if about else draw(invoice), draw(amount))
        if about and draw(st.booleans()):
            report(movement, reference, parent, ["parent"])
            movement.base = about
        elif parent == "never":
            report(movement, reference, parent, ["parent"])
            movement.missing = True
        else:
            report(movement, reference, parent, ["id", "name"])
        # A refund and a chargeback may carry one reference; two of one kind would be one movement with two contents.
        if reference and (movement.kind, reference) not in [(m.kind, r) for m, r in referenced]:
            referenced.append((movement, reference))
    for base, reference in draw(st.lists(st.sampled_from(referenced), unique_by=id, max_size=3)) if referenced else []:
        part = draw(st.sampled_from([base.amount, base.amount, max(base.amount // 2, 1)]))
        report(Movement(f"{base.kind}_reversal", base.invoice, part, base), reference, None, ["id", "name", "none"])
    if draw(st.booleans()):
        orphan = Movement("refund_reversal", draw(invoice), draw(amount), missing=True)
        report(orphan, "never", None, ["id", "name", "none"])
    return movements


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    number = next(examples)
    invoices = draw(st.integers(1, 3))
    first_invoice = number * 10
    connections = [f"{letter}{number}" for letter in "ab"[: draw(st.integers(1, 2))]]
    movements = [m for c in connections for m in draw(movements_of(c, first_invoice, invoices))]
    distinct = [event for movement in movements for event in movement.events]
    again = draw(st.lists(st.sampled_from(distinct), max_size=8)) if distinct else []

    steps: list[Step] = []
    for batch in draw(splits(draw(st.permutations([*distinct, *again])))):
        path = draw(st.sampled_from(["apply_each", "apply_together", "enqueue_each", "enqueue_together"]))
        steps.append(Batch(tuple(batch), path, draw(st.booleans())))
    for step in [Insert(n, names) for n in range(invoices) for names in (False, True)]:
        steps.insert(draw(st.integers(0, len(steps))), step)
    for _ in range(draw(st.integers(0, 3))):
        steps.insert(draw(st.integers(0, len(steps))), Drain(draw(st.sampled_from([1, 2, 500]))))
    return Scenario(first_invoice, invoices, connections, movements, steps)


@st.composite
def splits(draw: st.DrawFn, events: Sequence[Event]) -> list[Sequence[Event]]:
    cuts = sorted(draw(st.sets(st.integers(1, len(events) - 1)))) if len(events) > 1 else []
    return [events[start:end] for start, end in itertools.pairwise([0, *cuts, len(events)]) if start < end]


PATHS = {
    "apply_each": apply_each, "apply_together": apply_together,
    "enqueue_each": enqueue_each, "enqueue_together": enqueue_together,
}  # fmt: skip
STORED = {"applied", "queued", "duplicate", "parked"}


async def play(db: Connection, scenario: Scenario) -> None:
    refused: set[Event] = set()
    inserted: set[int] = set()

    async def insert(invoice: int) -> None:
        if invoice not in inserted:
            inserted.add(invoice)
            await add_invoice(db, scenario.first_invoice + invoice, AMOUNT)

    for step in scenario.steps:
        match step:
            case Insert(invoice, names=False):
                await insert(invoice)
            case Insert(invoice):
                await insert(invoice)
                for connection in scenario.connections:
                    number = scenario.first_invoice + invoice
                    await add_reference(db, connection, f"INV-{number}", number)
            case Drain(size):
                await process(db, size)
            case Batch(events, path, park):
                outcomes = await PATHS[path](db, events, park=park)
                assert len(outcomes) == len(events)
                for event, outcome in zip(events, outcomes, strict=True):
                    assert outcome in STORED or (outcome == "unknown_invoice" and not park), (event, outcome)
                    (refused.discard if outcome in STORED else refused.add)(event)
    # A sender that was told of an unknown invoice sends again, once everything is there.
    assert set(await apply_together(db, sorted(refused, key=repr))) <= STORED
    await drain(db)


@in_one_database
@given(scenario=scenarios())
async def test_any_order_repetition_split_and_path_leads_to_the_same_invoices(
    db: Connection, scenario: Scenario
) -> None:
    await play(db, scenario)
    rows = await db.fetch(
        """select id, status, amount_paid, amount_refunded, amount_charged_back from invoices
           where id between $1 and $1 + 9 order by id""", scenario.first_invoice)  # fmt: skip
    assert [tuple(row) for row in rows] == scenario.expected()

    # Each movement posted once or never, each event of it is processed or still waits, and each stands in one place.
    posted = await db.fetch(
        """select e.connection, e.event_id, s.place from payment_events e join payment_event_states s using (id)
           where e.connection = any($1)""", scenario.connections)  # fmt: skip
    places = {(row["connection"], row["event_id"]): row["place"] for row in posted}
    assert set(places) == {(e.connection, e.event_id) for m in scenario.movements for e in m.events}
    for movement in scenario.movements:
        found = Counter(places[event.connection, event.event_id] for event in movement.events)
        reports = len(movement.events)
        assert found == (Counter(posted=1, reported=reports - 1) if movement.posts else Counter(parked=reports))
    await assert_consistent(db)


# Part 2: the set-wise functions and the single-event ones agree, on bad input too.


@dataclass(frozen=True)
class Call:
    enqueues: bool
    park: bool
    events: tuple[Event, ...]


# Events from pools so small that ids, movements, parents and mistakes collide. Invoice 2 and its name come late.
EVENT_IDS = ["e1", "e2", "e3", "e4", "e5"]
MOVEMENTS = [None, "r1", "r2"]
FIELDS: dict[str, list[object]] = {
    "event_id": [*EVENT_IDS, None],
    "invoice_id": [None, 0, 1, 2],
    "amount": [100, 60, 0],
    "kind": [*KINDS, *(f"{kind}_reversal" for kind in KINDS), "gift"],
    "currency": [None, "USD", "EUR", "usd"],
    "connection": ["one", "two", "No"],
    "reference": [*MOVEMENTS, ""],
    "parent_reference": [*MOVEMENTS, ""],
    "invoice_reference": [None, "INV-0", "INV-2"],
}


late_invoice = st.just("the third invoice and its name come")
drained = st.just("the queue is drained")
expired = "what is parked has waited too long"


@st.composite
def likely_events(draw: st.DrawFn) -> Event:
    """An event as a provider would send it, mostly."""
    kind = draw(st.sampled_from(["payment", "payment", "refund", "chargeback", "payment_reversal", "refund_reversal"]))
    movement, parent = draw(st.sampled_from(MOVEMENTS)), draw(st.sampled_from(["r1", "r1", "r2"]))
    by_id, by_name = draw(st.sampled_from([(0, None), (1, None), (2, None), (None, "INV-0"), (None, "INV-2")]))
    if kind == "payment":
        return Event(draw(st.sampled_from(EVENT_IDS)), by_id, 100, kind, None, "one", movement, None, by_name)
    if kind.endswith("_reversal"):
        by_id = draw(st.sampled_from([None, by_id]))
        return Event(draw(st.sampled_from(EVENT_IDS)), by_id, 100, kind, None, "one", parent)
    by_id = draw(st.sampled_from([None, by_id]))
    return Event(draw(st.sampled_from(EVENT_IDS)), by_id, 60, kind, None, "one", movement, parent)


@st.composite
def histories(draw: st.DrawFn) -> list[Call | str]:
    """Calls with events of a small set, again and again, some of them changed in one field."""
    known = draw(st.lists(likely_events(), min_size=1, max_size=5))

    @st.composite
    def event(draw: st.DrawFn) -> Event:
        chosen = draw(st.sampled_from(known))
        if draw(st.integers(0, 3)):
            return chosen
        name = draw(st.sampled_from(sorted(FIELDS)))
        change: dict[str, Any] = {name: draw(st.sampled_from(FIELDS[name]))}
        return replace(chosen, **change)

    call = st.builds(
        Call, enqueues=st.booleans(), park=st.booleans(), events=st.lists(event(), min_size=1, max_size=6).map(tuple)
    )
    return draw(st.lists(st.one_of(call, call, call, late_invoice, drained, st.just(expired)), min_size=1, max_size=6))


def told_apart(event: Event, base: int, letter: str) -> Event:
    """The same event in an example and a world of its own."""
    connection = event.connection if event.connection == "No" else f"{event.connection}-{base}-{letter}"
    return replace(
        event, connection=connection, invoice_id=None if event.invoice_id is None else event.invoice_id + base
    )


def worlds() -> Iterator[tuple[str, int]]:
    """Two worlds of an example: one gets its events one by one, the other by arrays."""
    number = next(examples)
    yield "each", 10_000_000 + number * 10
    yield "together", 20_000_000 + number * 10


async def books(db: Connection, base: int) -> list[list[tuple[object, ...]]]:
    """All that a world holds, without generated ids and times."""
    like = f"%-{base}-%"
    queries = [
        ("""select id - $1, status, amount_paid, amount_refunded, amount_charged_back from invoices
            where id between $1 and $1 + 9 order by 1""", base),
        ("""select left(connection, 3), event_id, kind, amount, place, state, detail ~ '^conflict'
            from payment_event_states where connection like $1 order by 1, 2""", like),
        ("""select left(e.connection, 3), e.event_id, p.amount, p.kind, b.event_id from payments p
            join payment_events e on e.id = p.id left join payment_events b on b.id = p.reverses
            where p.connection like $1 order by 1, 2""", like),
        ("""select left(e.connection, 3), e.event_id, o.event_id from payment_reports r
            join payment_events e on e.id = r.id join payment_events o on o.id = r.payment_id
            where e.connection like $1 order by 1, 2""", like),
        ("""select left(connection, 3), event_id, reason, payment_event_id is null, report - 'connection' - 'invoice_id'
            from dead_letters where connection like $1 order by 1, 2, 3, 5""", like),
    ]  # fmt: skip
    return [[tuple(row) for row in await db.fetch(sql, value)] for sql, value in queries]


PAYMENT = Event("e2", 0, 100, "payment", None, "one", "r1")
REVERSAL = Event("e1", None, 100, "payment_reversal", None, "one", "r1")
REFUND = Event("e1", None, 60, "refund", None, "one", None, "r1")


@in_one_database
@given(history=histories())
@example([Call(False, False, (REFUND,)), Call(False, False, (REFUND, PAYMENT))])  # released by the batch that asks
@example([Call(False, False, (REFUND, PAYMENT, REFUND))])  # posted by its second report, after what it waited for
@example([Call(False, False, (PAYMENT, replace(REFUND, currency="EUR")))])  # refused for what stands before it
@example([Call(False, True, (replace(REFUND, currency="EUR"), PAYMENT, replace(REFUND, currency="EUR")))])
@example([Call(False, False, (REVERSAL,)), expired, Call(False, False, (REVERSAL, PAYMENT, REVERSAL))])
@example([Call(False, True, (replace(REVERSAL, invoice_reference="INV-2"), PAYMENT) * 2)])
@example([Call(False, True, (replace(REVERSAL, invoice_id=2), PAYMENT) * 2)])
@example([Call(False, True, (replace(REVERSAL, invoice_id=0, currency="EUR"), PAYMENT) * 2)])
@example([Call(False, False, (replace(PAYMENT, reference="r0"), PAYMENT, replace(REFUND, currency="EUR")))])
@example(
    [
        Call(False, False, (replace(REFUND, currency="EUR"),)),
        Call(False, False, (PAYMENT, replace(REFUND, currency="EUR"))),
    ]
)
@example(
    [
        Call(False, False, (replace(REFUND, currency="EUR"),)),
        Call(False, True, (PAYMENT, replace(REFUND, currency="EUR"))),
    ]
)
@example([Call(False, False, (
    Event("e3", None, 60, "refund", None, "one", "x", "r2"), Event("e4", 0, 60, "refund", None, "one", "x"),
    Event("e1", None, 60, "refund_reversal", "EUR", "one", "x"),
))])  # fmt: skip
async def test_one_by_one_and_by_arrays_the_same_input_has_the_same_outcomes_and_leaves_the_same_books(
    db: Connection, history: list[Call | str]
) -> None:
    (_, each), (_, together) = pair = list(worlds())
    for letter, base in pair:
        for invoice in (0, 1):
            await add_invoice(db, base + invoice, AMOUNT)
        for connection in ("one", "two"):
            await add_reference(db, f"{connection}-{base}-{letter}", "INV-0", base)
    late = False
    for step in [*history, "the queue is drained"]:
        if isinstance(step, Call):
            path_each, path_together = (
                (enqueue_each, enqueue_together) if step.enqueues else (apply_each, apply_together)
            )
            one_by_one = await path_each(db, [told_apart(e, each, "each") for e in step.events], park=step.park)
            events = [told_apart(e, together, "together") for e in step.events]
            at_once = await path_together(db, events, park=step.park)
            assert one_by_one == at_once
        elif step == "the queue is drained":
            await drain(db)
        elif step == expired:
            await db.fetch("select look_at_parked_events(p_park_days => 0)")
        elif not late:
            late = True
            for letter, base in pair:
                await add_invoice(db, base + 2, AMOUNT)
                await add_reference(db, f"one-{base}-{letter}", "INV-2", base + 2)
        assert await books(db, each) == await books(db, together)
    await assert_consistent(db)

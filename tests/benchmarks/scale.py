"""How much a run measures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Rounds of all cases, seconds of load for a figure, events to drain, past events at the most."""

    rounds: int = 5
    seconds: int = 3
    events: int = 200_000
    history: int = 10_000_000
    thorough: bool = True
    """With the scenarios that only a long run can tell something about."""


QUICK = Scale(rounds=1, seconds=1, events=20_000, history=100_000, thorough=False)

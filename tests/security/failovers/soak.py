"""`make soak`, second part: ten minutes of failovers.

Again and again, a primary fails and a standby is promoted: a standby with every commit, a standby
that lacks some commits, or a standby beside a primary that stays up. Meanwhile clients issue,
revoke, suspend and resolve keys. At the end, each answer is compared with the changes that were
acknowledged before the question.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from security.failovers.clients import Clients
from security.failovers.fleet import Failover, Fleet
from security.failovers.history import Change, History
from stack import Janitor


@dataclass(slots=True)
class Outcome:
    """The result of a run.

    Attributes:
        history: All changes, questions and answers.
        readers: The names of the clients that ask.
        failovers: How many failovers of each kind there were.
        lost: The acknowledged changes that a new primary did not have, by kind of failover.
        changes: How many changes were acknowledged.
        unavailable: How many questions got no answer.
    """

    history: History = field(default_factory=History)
    readers: list[str] = field(default_factory=list)
    failovers: Counter[Failover] = field(default_factory=Counter)
    lost: dict[Failover, list[Change]] = field(default_factory=lambda: {k: [] for k in Failover})
    changes: int = 0
    unavailable: int = 0


def run(
    janitor: Janitor,
    *,
    is_over: Callable[[int], bool],
    seconds: float = 3.0,
    max_lag: timedelta = timedelta(milliseconds=500),
    bound: timedelta = timedelta(milliseconds=500),
    sabotage: Callable[[Clients], None] = lambda _: None,
) -> Outcome:
    """Run clients while the fleet fails over.

    Args:
        janitor: Stops the servers at the end of the run.
        is_over: Whether to stop after this number of failovers.
        seconds: How long clients work before a failover, and after it.
        max_lag: The maximum lag of the clients that read on a standby.
        bound: The bound of the cache.
        sabotage: Breaks a client, to show that the checker finds the fault.

    Returns:
        The result of the run.
    """
    outcome = Outcome()
    with Fleet(janitor, outcome.history) as fleet:
        with Clients(fleet, max_lag=max_lag, bound=bound) as clients:
            sabotage(clients)
            for number, kind in enumerate(itertools.cycle(Failover)):
                if is_over(number):
                    break
                if kind is Failover.synchronous:
                    fleet.synchronize()
                time.sleep(seconds)
                if kind is Failover.asynchronous:
                    fleet.lag()
                    time.sleep(seconds / 2)
                outcome.lost[kind] += fleet.fail_over(kind, clients.paused)
                outcome.failovers[kind] += 1
                time.sleep(seconds)
                fleet.replace()
        outcome.readers = clients.readers
        outcome.changes, outcome.unavailable = clients.changes, clients.unavailable
    return outcome


def report(outcome: Outcome, console: Console) -> bool:
    """Print the result. Return whether all promises were kept."""
    history = outcome.history
    stale = list(history.stale())
    table = Table(
        "who asked", "questions", "found", "late, within the promise", "lost", "violations"
    )
    for name in outcome.readers:
        mine = [one for one in stale if one.found.reader == name]
        late = [one.seconds for one in mine if not one.is_lost and not one.is_violation]
        table.add_row(
            name,
            f"{history.questions[name]:,}",
            f"{sum(one.reader == name for one in history.found):,}",
            f"{len(late):,}, up to {max(late):.3f} s" if late else "0",
            f"{sum(one.is_lost for one in mine):,}",
            f"{sum(one.is_violation for one in mine):,}",
        )
    console.print(table)
    console.print(
        f"{outcome.changes:,} changes acknowledged, {outcome.unavailable:,} without answer"
    )
    for kind in Failover:
        lost = Counter(one.kind for one in outcome.lost[kind])
        told = ", ".join(f"{count} {name}" for name, count in lost.items()) or "nothing"
        console.print(f"{outcome.failovers[kind]} {kind.name} ({kind.value}): lost {told}")
    violations = [one for one in stale if one.is_violation]
    for one in violations[:20]:
        console.print(f"[red]{one.found.reader}: {one.change.kind} missed for {one.seconds:.3f} s")
    return not violations and not outcome.lost[Failover.synchronous]


def main() -> int:
    """Run the soak test and print the result. Return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--bound", type=float, default=0.5, help="seconds")
    parser.add_argument("--ignore-notifications", action="store_true", help="to see it fail")
    options = parser.parse_args()
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # Servers stop all the time.
    ends = time.monotonic() + options.minutes * 60
    bound = timedelta(seconds=options.bound)

    def sabotage(clients: Clients) -> None:
        if options.ignore_notifications:
            clients.cache._cache.heard = lambda _: None  # type: ignore[assignment, method-assign]

    with ExitStack() as opened:
        janitor = Janitor()
        opened.callback(janitor.close)
        outcome = run(
            janitor,
            is_over=lambda _: time.monotonic() > ends,
            max_lag=bound,
            bound=bound,
            sabotage=sabotage,
        )
    return int(not report(outcome, Console()))


if __name__ == "__main__":
    sys.exit(main())

"""How much of what is done to a city, and what came of it?"""

from collections import Counter
from typing import Any

from msgspec import Struct
from msgspec.structs import replace


class Plan(Struct, frozen=True, kw_only=True):
    """How much of what. citizens: how many live meanwhile. kills: at random, of each service. at_points: at
    each of `points` (none named: of all), of each service that comes by, or of one where `points_once`.
    zombies, storms, replays: in all, the services in turn; storm: members that come and go in one. outages:
    of broker and database each, seconds. commits, acks: replies lost, in all. tails: how often a topic loses
    its newest records, at least so many as `tail`. provider: settings of the payment provider, its bad days.
    """

    citizens: int
    seed: int = 7
    kills: int = 0
    at_points: int = 0
    points_once: bool = False
    points: tuple[str, ...] = ()
    point_seconds: float = 20.0
    zombies: int = 0
    zombie_seconds: float = 17.0
    storms: int = 0
    storm: int = 2
    replays: int = 0
    brokers: int = 0
    databases: int = 0
    outages: tuple[float, ...] = ()
    commits: int = 0
    acks: int = 0
    cuts: int = 0
    tails: int = 0
    tail: int = 20
    provider: dict[str, Any] = {}


# Some of its answers come too late or not at all; what it repeats comes ten times faster than the real one's.
_BAD_DAYS = {
    "notify_speed": 10.0,
    "faults": {"rates": {"place_timeout": 0.02, "place_500": 0.02, "query_500": 0.1}},
}
QUICK = Plan(
    citizens=160, kills=1, at_points=1, points_once=True, zombies=1, storms=1, replays=1, brokers=1,
    databases=1, outages=(5.0,), commits=4, acks=4, cuts=1, tails=1, provider=_BAD_DAYS,
)
ROUNDS = 100


def round_of(number: int) -> Plan:
    """One of the rounds of the long form, each with a city of its own; together they are what reliability
    goals ask for: 200 kills of each service, 100 of the broker and of Postgres, 1,000 lost replies of each
    kind, 20 outages of a minute and two of ten, 100,000 citizens.
    """
    outage = 600.0 if number % 50 == 49 else 60.0 if number % 5 == 4 else 8.0
    return replace(
        QUICK, citizens=1_000, seed=number + 1, kills=2, commits=10, acks=10, outages=(outage,), storm=4,
        tail=50, cuts=2, zombie_seconds=25.0,
    )


class Report(Struct, kw_only=True):
    """What came of one round, or of several. faults: how often each was done. wrong: what was lost, doubled
    or broken, in words; empty: nothing.

    heal_seconds: from the last fault until everything that was under way had ended.
    """

    seed: int
    citizens: int
    rounds: int = 1
    at: str = ""
    payments: int = 0
    facts: int = 0
    faults: dict[str, int] = {}
    points: dict[str, int] = {}
    missed: list[str] = []
    ends: dict[str, int] = {}
    replayed: int = 0
    repeats: int = 0
    seconds: float = 0.0
    heal_seconds: float = 0.0
    wrong: list[str] = []

    @property
    def kills(self) -> int:
        """Processes that were killed, servers too."""
        return sum(n for what, n in self.faults.items() if what.startswith(("SIGKILL", "crash")))

    def and_then(self, later: "Report") -> "Report":
        """Both as one."""
        return Report(
            rounds=self.rounds + later.rounds, seed=self.seed, citizens=self.citizens + later.citizens,
            at=later.at, payments=self.payments + later.payments, facts=self.facts + later.facts,
            faults=_sum(self.faults, later.faults), points=_sum(self.points, later.points),
            missed=self.missed + later.missed, ends=_sum(self.ends, later.ends),
            replayed=self.replayed + later.replayed, repeats=self.repeats + later.repeats,
            seconds=self.seconds + later.seconds, heal_seconds=max(self.heal_seconds, later.heal_seconds),
            wrong=self.wrong + later.wrong,
        )


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return dict(sorted((Counter(one) + Counter(other)).items()))

"""What does a comparison with peers say? What each costs, how many times ours, and what each leaves out or
adds.
"""

from collections.abc import Sequence
from typing import Any

from bench.pipeline import MOST_FOREIGN, PARTS, Round
from bench.report import loop_figures, ranged, spread_of

DIFFERS = {
    "ours": "has signatures, seals, tracing, metrics, parking, refusals; handles in batches what waits.",
    "ours_http": "the same over its doors: 3 signed requests for each BT, answered once they are committed.",
    "killbill": "Kill Bill 0.22.26 over REST, on our Postgres, its JVM warm: an account, an invoice, an"
    " external payment, a look at the balance, 4 pushes. More than ours: an audit row for each row, tenants,"
    " plugins. Less: no signatures, seals or review, no cover, no Kafka, no bank's settlement. In its favour:"
    " the API key is hashed once and not 200,000 times with each request (as shipped: 213 ms of CPU per BT"
    " were seen, not 28).",
    "mojaloop": "Mojaloop's central ledger 19.5.5 over our Kafka, positions in batches of 50, on a MariaDB of"
    " its own (in Postgres' column): the money leg only. More than ours: limits, liquidity, time-outs,"
    " reversals. Less: no person, bill or cover, nobody is told, no signatures. One payer and one payee, its"
    " worst case.",
    "tutorial": "FastStream and SQLModel as their tutorials do it: a session and a commit for each message,"
    " published after the commit. Without inbox and outbox (17 of 39 rows), so it loses and repeats messages"
    " and is not asked for the gate's second half, that everything be said again;"
    " without signatures, seals, tracing. All in its favour, as is a log that is off.",
    "careful": "asyncpg and aiokafka, a transaction for each message, with inbox and outbox; what fails is"
    " tried again. Without signatures, seals, tracing; its outbox forgets what was sent. All in its favour.",
}


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """The object of `--json`. times_ours: CPU per transaction and throughput, peer against ours, round by
    round.
    """
    by_loop: dict[str, list[Round]] = {}
    for it in rounds:
        by_loop.setdefault(it.loop, []).append(it)
    told: dict[str, Any] = {
        loop: loop_figures(some) | {"differs": DIFFERS[loop]} for loop, some in by_loop.items()
    }
    first = rounds[0].loop
    own = by_loop[first]
    for loop, some in by_loop.items():
        if loop != first:
            told[loop]["times_ours"] = {
                "cpu_per_bt": spread_of([_cost(theirs) / _cost(it) for theirs, it in zip(some, own)]),
                "bt_per_s": spread_of([_speed(it) / _speed(theirs) for theirs, it in zip(some, own)]),
            }
    return told


def as_text(told: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"{'':>9}{'BT/s':>18}" + "".join(f"{name:>26}" for name in ("CPU µs/BT", *PARTS))]
    for loop, it in told.items():
        cells = "".join(f"{ranged(it['cpu_ms_per_bt'][name], 1000):>26}" for name in ("total", *PARTS))
        lines.append(f"{loop:>9}{ranged(it['bt_per_s'], 1):>18}{cells}")
    for loop, it in told.items():
        if "times_ours" in it:
            times = it["times_ours"]
            lines.append(
                f"{loop}: {ranged(times['cpu_per_bt'], 1)} times our CPU per BT, and ours does"
                f" {ranged(times['bt_per_s'], 1)} times its BT/s (n = {it['rounds']} rounds by turns)"
            )
    lines += [f"{loop}: {it['differs']}" for loop, it in told.items()]
    if any(it["disturbed"] for it in told.values()):
        lines.append(
            f"noisy: others used more than {MOST_FOREIGN:.0%} of the machine in"
            f" {sum(it['disturbed'] for it in told.values())} of {sum(it['rounds'] for it in told.values())}"
            " rounds; trust the ratios rather than the figures"
        )
    return "\n".join(lines)


def _cost(it: Round) -> float:
    return sum(it.ns[part] for part in PARTS) / it.transactions


def _speed(it: Round) -> float:
    return it.transactions / it.seconds

"""What does a benchmark say? Medians and ranges over its rounds, the work they stand for, and what
disturbed them.
"""

import os
import platform
from collections.abc import Sequence
from statistics import median
from typing import Any

from bench.pipeline import MOST_FOREIGN, PARTS, Round

# One business transaction: these rows and messages, the same for both loops; bench/gate.py counts them.
ROWS = {
    "enrollment": "enrollment, coverage, 2 × request; update of enrollment and coverage; inbox; 5 × outbox",
    "billing": "bill; update of bill; 2 × inbox; 2 × outbox",
    "payment": "obligation, orders, order_item, receipt, 2 × ledger, request; update of obligation;"
    " 2 × inbox; 2 × outbox",
    "notify": "3 × notification, 3 × call; 3 × inbox",
}
MESSAGES = (
    "SubmitEnrollment → EnrollmentSubmitted, answer; ReviewDecision → EnrollmentApproved, answer; BillIssued;"
    " ReportPayment → PaymentSettled, answer; BillSettled; CoverageActivated"
)
DEFINITION = f"""\
One business transaction (BT): 39 rows, 3 commands, 9 messages said, 20 read (9 of them skipped):
  {MESSAGES}
{chr(10).join(f"  {service}: {rows}" for service, rows in ROWS.items())}
In both loops: 2 HMAC and 1 RSA signature verified, 2 seals opened, 3 request digests; fsync on, acks=all.
In neither: registration, the bank's signing, sending the 3 SMS (their calls are rows that nobody takes).
Only in ours: parking, waiting, refusals, tables by month, the ledger's trigger, metrics, traces at 1 %."""


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """The object of `--json`. CPU in milliseconds per BT; roofline_fraction is raw ÷ ours.

    Rounds that others disturbed count only if there are no others; `disturbed` says how many they were.
    """
    loops = {loop: [it for it in rounds if it.loop == loop] for loop in ("ours", "raw")}
    told: dict[str, Any] = {loop: loop_figures(some) for loop, some in loops.items()}
    cost = {loop: told[loop]["cpu_ms_per_bt"]["total"]["median"] for loop in loops}
    return {
        **told,
        "roofline_fraction": round(cost["raw"] / cost["ours"], 3),
        "noisy": any(told[loop]["disturbed"] == told[loop]["rounds"] for loop in loops),
        "transaction": {"rows": ROWS, "messages": MESSAGES},
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
    }


def as_text(said: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        DEFINITION,
        "",
        f"{'':>6}{'BT/s':>22}" + "".join(f"{name:>22}" for name in ("CPU µs/BT", *PARTS, "load generator")),
    ]
    for loop in ("ours", "raw"):
        cpu = said[loop]["cpu_ms_per_bt"]
        cells = [ranged(said[loop]["bt_per_s"], 1)] + [
            ranged(cpu[name], 1000) for name in ("total", *PARTS, "load_generator")
        ]
        lines.append(f"{loop:>6}" + "".join(f"{cell:>22}" for cell in cells))
    lines += [
        "",
        *(
            f"{what.replace('_', ' ') + ' per BT':>24}: "
            + "   ".join(f"{loop} {ranged(said[loop]['per_bt'][what], 1)}" for loop in ("ours", "raw"))
            for what in said["ours"]["per_bt"]
            if what != "commits"
        ),
    ]
    lines += ["", f"roofline fraction (raw CPU ÷ ours): {said['roofline_fraction']:.2f}"]
    if said["noisy"]:
        lines.append(
            f"noisy: in every round others used more than {MOST_FOREIGN:.0%} of the machine;"
            " trust the ratio rather than the figures"
        )
    return "\n".join(lines)


def loop_figures(rounds: Sequence[Round]) -> dict[str, Any]:
    """What one loop's rounds say: those that nobody disturbed, if there are any."""
    kept = [it for it in rounds if not it.disturbed] or list(rounds)

    def milliseconds(*parts: str) -> dict[str, float]:
        return spread_of([sum(it.ns[part] for part in parts) / it.transactions / 1e6 for it in kept])

    return {
        "bt_per_s": spread_of([it.transactions / it.seconds for it in kept]),
        "cpu_ms_per_bt": {"total": milliseconds(*PARTS)}
        | {name: milliseconds(name) for name in (*PARTS, "load_generator")},
        "per_bt": {what: spread_of([it.wrote[what] for it in kept]) for what in kept[0].wrote},
        "foreign_share": spread_of([it.foreign_share for it in rounds]),
        "transactions": rounds[0].transactions,
        "rounds": len(rounds),
        "disturbed": sum(it.disturbed for it in rounds),
    }


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": round(median(values), 4), "min": round(min(values), 4), "max": round(max(values), 4)}


def ranged(spread: dict[str, float], times: float) -> str:
    """The same as one cell."""
    return f"{spread['median'] * times:,.0f} [{spread['min'] * times:,.0f}–{spread['max'] * times:,.0f}]"

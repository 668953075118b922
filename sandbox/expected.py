"""What must come out for a citizen, and does it? By the published rules, without the product's code."""

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct, field

# Source: sample pack S3-2025 of the domain's sources (B3-B6): personal part in fen by certified category.
PERSONAL_FEN = 40_000
DUE_FEN = {
    "extremely_poor": 0,
    "orphan": 0,
    "subsistence": 12_000,
    "severely_disabled": 20_000,
    "student": 40_000,
    "preschool": 40_000,
}

# What a citizen is told, by what happened.
TOLD_BILL, TOLD_WAIVED, TOLD_RETURNED, TOLD_REJECTED = (
    "bill_issued",
    "bill_waived",
    "enrollment_returned",
    "enrollment_rejected",
)
TOLD_PAID, TOLD_SUSPENSE, TOLD_COVERED = "payment_settled", "funds_unmatched", "coverage_activated"

Money = tuple[int, int]  # citizen number, fen
Suspended = tuple[int, int, str]  # citizen number, fen, reason


class Outcome(Struct, frozen=True, kw_only=True):
    """One citizen's end. due_fen: of the bill (0: waived, -1: never assessed). suspense: (fen, reason) of
    each sum.
    """

    decision: str
    due_fen: int
    settled_fen: int
    suspense: tuple[tuple[int, str], ...]
    covered: bool
    told: tuple[str, ...]


def due_fen(certified: Iterable[str]) -> int:
    """What a person owes for the year, in fen: the lowest of what the certified categories owe."""
    return min((DUE_FEN[category] for category in certified), default=PERSONAL_FEN)


def outcome(*, decision: str, certified: Iterable[str], paid_fen: Iterable[int]) -> Outcome:
    """What follows from the agency's decision and the sums that arrive, whatever road they take and in which
    order.
    """
    if decision != "APPROVE":
        no = TOLD_RETURNED if decision == "RETURN" else TOLD_REJECTED
        return Outcome(decision=decision, due_fen=-1, settled_fen=0, suspense=(), covered=False, told=(no,))
    due = due_fen(certified)
    if due == 0:
        return Outcome(
            decision=decision,
            due_fen=0,
            settled_fen=0,
            suspense=(),
            covered=True,
            told=(TOLD_WAIVED, TOLD_COVERED),
        )
    settled, suspense = 0, []
    for fen in paid_fen:
        if fen != due:
            suspense.append((fen, "AMOUNT_MISMATCH"))
        elif settled:
            suspense.append((fen, "PAID_TWICE"))
        else:
            settled = fen
    told = [TOLD_BILL, *([TOLD_PAID, TOLD_COVERED] if settled else []), *([TOLD_SUSPENSE] * len(suspense))]
    return Outcome(
        decision=decision,
        due_fen=due,
        settled_fen=settled,
        suspense=tuple(suspense),
        covered=bool(settled),
        told=tuple(told),
    )


class Reach(Struct, frozen=True, kw_only=True):
    """How a citizen can be told. email: empty for none. refuses: the SMS gateway takes nothing for this
    phone. breaks: it takes each SMS for it and breaks the connection instead of saying so.
    """

    phone: str
    email: str = ""
    refuses: bool = False
    breaks: bool = False


class Picture(Struct, kw_only=True):
    """All outcomes of a city as sets. by_sms, by_mail, by_nobody: (citizen, template) with how often, by what
    notify says; texted: (phone, template) and mailed: (address, template) by the books of gateway and mail
    server; mailed_again: what has a Message-ID that it had already, which a mailbox does not show.
    asked_after: SMS (citizen, template) that notify learned of by asking.

    refused: (label of the blunder, reason). parked and forged: places (topic/partition/offset) of records.
    unlike: request ids that were said twice and answered in different words.
    """

    approved: set[int] = field(default_factory=set)
    returned: set[int] = field(default_factory=set)
    rejected: set[int] = field(default_factory=set)
    billed: set[Money] = field(default_factory=set)
    waived: set[int] = field(default_factory=set)
    settled: set[Money] = field(default_factory=set)
    suspense: Counter[Suspended] = field(default_factory=Counter)
    covered: set[int] = field(default_factory=set)
    by_sms: Counter[tuple[int, str]] = field(default_factory=Counter)
    by_mail: Counter[tuple[int, str]] = field(default_factory=Counter)
    by_nobody: Counter[tuple[int, str]] = field(default_factory=Counter)
    asked_after: Counter[tuple[int, str]] = field(default_factory=Counter)
    texted: Counter[tuple[str, str]] = field(default_factory=Counter)
    mailed: Counter[tuple[str, str]] = field(default_factory=Counter)
    mailed_again: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: set[tuple[str, str]] = field(default_factory=set)
    parked: Counter[str] = field(default_factory=Counter)
    forged: Counter[str] = field(default_factory=Counter)
    unlike: set[str] = field(default_factory=set)

    @property
    def told(self) -> int:
        """How many notifications reached somebody, by whatever road."""
        return self.by_sms.total() + self.by_mail.total()


def picture(outcomes: Iterable[Outcome], reaches: Iterable[Reach]) -> Picture:
    """The sets that a city's outcomes mean; outcomes and reaches by citizen number."""
    whole = Picture()
    for number, (end, reach) in enumerate(zip(outcomes, reaches, strict=True)):
        match end.decision:
            case "APPROVE":
                whole.approved.add(number)
            case "RETURN":
                whole.returned.add(number)
            case _:
                whole.rejected.add(number)
        if end.due_fen > 0:
            whole.billed.add((number, end.due_fen))
        elif end.due_fen == 0:
            whole.waived.add(number)
        if end.settled_fen:
            whole.settled.add((number, end.settled_fen))
        whole.suspense.update((number, fen, reason) for fen, reason in end.suspense)
        if end.covered:
            whole.covered.add(number)
        _tell(whole, number, end.told, reach)
    return whole


def _tell(whole: Picture, number: int, templates: Iterable[str], reach: Reach) -> None:
    """By SMS; by mail when the SMS is refused for good; else by nobody. An SMS whose fate is unknown is asked
    after, not sent again.
    """
    told = [(number, template) for template in templates]
    if not reach.refuses:
        whole.by_sms.update(told)
        whole.texted.update((reach.phone, template) for _, template in told)
        whole.asked_after.update(told if reach.breaks else ())
    elif reach.email:
        whole.by_mail.update(told)
        whole.mailed.update((reach.email, template) for _, template in told)
    else:
        whole.by_nobody.update(told)


class Difference(Struct, frozen=True, kw_only=True):
    """Where what came out differs from the plan. missing, surplus: the members, as text, sorted."""

    what: str
    missing: tuple[str, ...]
    surplus: tuple[str, ...]


def differences(plan: Picture, seen: Picture) -> list[Difference]:
    """Every set that differs; an empty list means that all came out as planned."""
    found = []
    for name in Picture.__struct_fields__:
        wanted, got = _counted(getattr(plan, name)), _counted(getattr(seen, name))
        if wanted != got:
            found.append(Difference(what=name, missing=_texts(wanted - got), surplus=_texts(got - wanted)))
    return found


def _counted(members: set[object] | Counter[object]) -> Counter[object]:
    return Counter(members)


def _texts(members: Counter[object]) -> tuple[str, ...]:
    return tuple(
        sorted(str(member) if times == 1 else f"{member} x{times}" for member, times in members.items())
    )

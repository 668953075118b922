"""How does a run go? A policy chooses each step; then all is healed, all work must end, books are compared.
"""

import random
from collections.abc import Callable
from datetime import timedelta

from tests.simulation import trouble
from tests.simulation.checks import final
from tests.simulation.city import GO, REBALANCE, City
from tests.simulation.clockwork import START
from tests.simulation.histories import forget_heard, replayed, standing_rows
from tests.simulation.lines import NO_ROOM
from tests.simulation.schedule import Action, Anchor, Gate

Policy = Callable[[City], Action | None]
MOST_STEPS = 2500           # of the first phase, whoever chooses
HEALING_STEPS = 6000        # within so many all work has ended
MOST_NUDGES, NUDGE_SECONDS = 40, 400.0      # citizens who wait for words; clocks that were wrong come right
CLOCK_SECONDS = 700.0       # more than any clock is ever fast
ROUND_STEPS = 400           # after so many operators look again
HORIZON = START + timedelta(days=14)        # cover has begun by then


def fair(city: City) -> Action | None:
    """Whoever has waited longest."""
    return next(iter(city.enabled()), None)


class Anchored:
    """The fair schedule, and faults at their places."""

    def __init__(self, anchors: list[Anchor]) -> None:
        self._left = list(anchors)
        self._here: list[Anchor] = []       # somebody stands there, or that many steps are done

    def watch(self, city: City) -> None:
        """Hear of every gate."""
        def stands(gate: Gate, nth: int) -> None:
            self._arrive(
                [a for a in self._left if (a.actor, a.label, a.nth) == (gate.actor, gate.label, nth)]
            )

        city.schedule.on_gate = stands

    def _arrive(self, anchors: list[Anchor]) -> None:
        self._here += anchors
        self._left = [anchor for anchor in self._left if anchor not in anchors]

    def __call__(self, city: City) -> Action | None:
        self._arrive([a for a in self._left if not a.label and a.nth <= city.schedule.steps])
        for anchor in self._here:
            gate = city.schedule.gates.get(anchor.actor)
            if not anchor.label or (gate is not None and (gate.ready is None or gate.ready())):
                self._here.remove(anchor)
                return Action(anchor.what, anchor.actor)
        return fair(city)


# What a seed may draw at the gates, of people and providers, and what may happen to all.
AT_GATES = ("cut", "lost", "deadlock", "locked", "full", "slow", "not sent", "no word", "refused", "no reply",
            "late", "black hole", "again", "slice", "bug")
OUTSIDE = ("surely not", "silent", "silent, done", "no", "twice", "otherwise", "forged", "mispaid", "never")
TO_ALL = (
    trouble.CRASH, trouble.FREEZE, trouble.ZOMBIE, trouble.STOP, REBALANCE, trouble.EARLIEST, trouble.SKIP,
    trouble.EXPIRE, trouble.GROW, trouble.DOWN, trouble.CUT_OFF, trouble.NO_DATABASE, trouble.FAILOVER,
    trouble.CROWDED, trouble.DUPLICATE, trouble.GARBAGE, trouble.STRAY, trouble.BUGS,
    trouble.TIME, trouble.CLOCK, trouble.REDRIVE, trouble.REPUBLISH, trouble.REREAD,
    NO_ROOM,
)  # fmt: skip
ENDS = {trouble.DOWN: trouble.UP, trouble.CUT_OFF: trouble.RECONNECT, trouble.NO_DATABASE: trouble.DATABASE,
        trouble.CROWDED: trouble.ROOMY,
        trouble.BUGS: trouble.MEND}
OUTSIDE_SHARE = 0.4     # of what people and providers do goes wrong, if it may
LEAST_KINDS = 5         # of faults strike in a seed
QUIET_STEPS = (0, 250, 500, 750, 1000, 1250)     # before the first of them: a life takes about a thousand
ALWAYS = (trouble.CRASH, trouble.TIME, trouble.REDRIVE, trouble.GARBAGE, trouble.EARLIEST)
SECONDS = ("1", "6", "40", "1900")
OFF_SECONDS = ("-600", "600", "-3600", "0")
HANDLERS = ("billing enrollment.enrollment_approved.v1", "payment billing.bill_issued.v1",
            "enrollment billing.bill_settled.v1", "notify enrollment.coverage_waiting.v1")
AMONG = {
    trouble.TIME: SECONDS,
    trouble.CLOCK: OFF_SECONDS,
    trouble.CROWDED: ("payment", "notify"),     # those that have a door
    trouble.BUGS: HANDLERS,
    NO_ROOM: (*HANDLERS, "enrollment enrollment.submit_enrollment.v1",
              "enrollment enrollment.review_decision.v1", "notify enrollment.person_recorded.v1"),
}


class Chance:
    """A seed draws which kinds of fault there are, how often, and from which time of people's lives on; then
    step by step; always the same.
    """

    def __init__(self, seed: int, steps: int) -> None:
        self._draw = random.Random(f"choices {seed}")
        draw = self._draw
        self.kinds = {*draw.sample(AT_GATES, draw.randint(2, 6)), *draw.sample(OUTSIDE, draw.randint(3, 7)),
                      *draw.sample(TO_ALL, draw.randint(4, 10))}
        self._share = self._draw.choice((0.02, 0.05, 0.1))
        self._quiet = self._draw.choice(QUIET_STEPS)
        self._steps = self._quiet + steps
        self._pending: list[Action] = []        # what ends a trouble that lasts

    def __call__(self, city: City) -> Action | None:
        if city.schedule.steps >= self._steps:
            return self._one_more(city)
        draw = self._draw.random()
        if draw < self._share and city.schedule.steps >= self._quiet:
            action = self._bad(city)
            if action is not None:
                return action
        if self._pending and draw > 0.98:
            return self._pending.pop(0)
        going = city.enabled()
        if not going:
            return self._pending.pop(0) if self._pending else Action(trouble.TIME, self._draw.choice(SECONDS))
        return self._perhaps_ill(city, self._draw.choice(going))

    def _perhaps_ill(self, city: City, action: Action) -> Action:
        """People and providers are at few gates, so that what may happen there needs a chance of its own."""
        gate = city.schedule.gates.get(action.actor) if action.kind == GO else None
        if gate is None or not ("." not in gate.actor or "provider." in gate.actor or ".call." in gate.actor):
            return action
        faults = [fault for fault in gate.faults if fault in self.kinds]
        ill = faults and self._draw.random() < OUTSIDE_SHARE
        return Action(self._draw.choice(faults), action.actor) if ill else action

    def _one_more(self, city: City) -> Action | None:
        """What can always happen, while too few kinds have."""
        met = {kind for kind, _ in city.schedule.met}
        if len(met) >= LEAST_KINDS:
            return None
        kind = next(kind for kind in ALWAYS if kind not in met)
        return Action(kind, self._whom(city, kind))

    def _bad(self, city: City) -> Action | None:
        at = [Action(fault, g.actor) for g in city.schedule.open_gates() for fault in g.faults
              if fault in self.kinds]
        every = [kind for kind in TO_ALL if kind in self.kinds]
        if at and self._draw.random() < 0.6:
            kind = self._draw.choice(sorted({action.kind for action in at}))    # rare ones as often as others
            return self._draw.choice([action for action in at if action.kind == kind])
        kind = self._draw.choice(every)
        to = self._whom(city, kind)
        if kind in ENDS:
            self._pending.append(Action(ENDS[kind], to))
        return Action(kind, to)

    def _whom(self, city: City, kind: str) -> str:
        choice = self._draw.choice
        if kind == trouble.FREEZE and self._draw.random() < 0.7:
            return choice(sorted(city.schedule.gates))
        if kind in (trouble.CRASH, trouble.FREEZE, trouble.ZOMBIE, trouble.STOP):
            return choice(sorted(city.members))
        if kind in (REBALANCE, trouble.EARLIEST, trouble.SKIP, trouble.EXPIRE):
            groups = sorted(city.broker.groups)
            lag = [name for name in groups if kind == trouble.EXPIRE and trouble.unread(city, name)]
            return choice(lag or groups)
        if kind in (trouble.CUT_OFF, trouble.NO_DATABASE):
            return choice(sorted({member.service for member in city.members.values()}))
        if kind in AMONG:
            return choice(AMONG[kind])
        if kind in (trouble.FAILOVER, trouble.GROW):
            return "all"
        return str(self._draw.randrange(1000))


class Script:
    """Actions by name, as they were; what is not possible now is left out."""

    def __init__(self, actions: list[Action]) -> None:
        self._left = list(reversed(actions))

    def __call__(self, _: City) -> Action | None:
        return self._left.pop() if self._left else None


async def play(city: City, policy: Policy) -> list[Action]:
    """The whole run; city.failures says what was wrong. Returns what was chosen in the first phase."""
    await city.begin()
    chosen: list[Action] = []
    while not city.failures and city.schedule.steps < MOST_STEPS:
        action = policy(city)
        if action is None:
            break
        if await city.act(action):
            chosen.append(action)
        elif not isinstance(policy, Script):
            city.schedule.steps += 1        # a try counts, or a policy could try for ever
    if not city.failures:
        await heal(city)
    if not city.failures:
        city.failures += await final(city)
    if not city.failures:
        await say_all_again(city)
    return chosen


async def heal(city: City) -> None:
    """No fault any more; time passes from due to due; an operator mends. All work ends, or that is a failure.
    """
    await city.thaw()
    city.healing, city.broker.is_up, city.nature.off = True, True, timedelta()
    for cleared in (city.broker.cut_off, city.no_database, city.crowded, city.no_room, city.bugs):
        cleared.clear()
    if any(kind == trouble.EXPIRE for kind, _ in city.schedule.met):
        trouble.order_all(city, trouble.REPUBLISH)
    if any(kind == trouble.CLOCK for kind, _ in city.schedule.met):
        await city.pass_time(CLOCK_SECONDS)     # what was from the future comes of age
    await city.after(Action("heal", ""))
    await _until_all_is_done(city)


async def say_all_again(city: City) -> None:
    """Every outbox once more, to those who have heard it and to a console that has not."""
    before = await standing_rows(city)
    await forget_heard(city)
    trouble.order_all(city, trouble.REPUBLISH)
    await city.after(Action("say all again", ""))
    await _until_all_is_done(city)
    if not city.failures:
        city.failures += replayed(before, await standing_rows(city))


async def _until_all_is_done(city: City) -> None:
    end, next_round = city.schedule.steps + HEALING_STEPS, 0
    while not city.failures:
        if city.schedule.steps >= end:
            city.failures.append(f"I24 work does not end: {unfinished(city)}")
            return
        if city.schedule.steps >= next_round:
            next_round = city.schedule.steps + ROUND_STEPS
            _mend(city)
        going = fair(city)
        if going is not None:
            await city.act(going)
        elif not await _go_on(city):
            return


def _mend(city: City) -> bool:
    """An operator resumes what has halted and redrives what is parked."""
    ordered = False
    for service, work in sorted(city.truth.work.items()):
        if work.halted:
            trouble.order(city, service, "resume")
        for reason in trouble.REASONS if work.parked else ():
            trouble.order(city, service, reason)
        ordered |= bool(work.halted or work.parked)
    return ordered


async def _go_on(city: City) -> bool:
    """Nobody can move: operators, citizens, and then time. False: all is done, or nothing helps."""
    if _mend(city):
        await city.pass_time(1.0)
        await city.after(Action("mend", ""))
        return True
    if city.nudges < MOST_NUDGES and any(person.done != "covered" for person in city.people):
        gates = {city.schedule.gates[p.name].label for p in city.people if p.name in city.schedule.gates}
        if gates & {"hears", "waits"}:
            city.nudges += 1
            await city.pass_time(NUDGE_SECONDS)
            await city.after(Action("nudge", ""))
            return True
    due = city.truth.next_instant(HORIZON)
    if due is None:
        return False
    await city.until(due + timedelta(milliseconds=1))
    await city.after(Action(GO, "time"))
    return True


def unfinished(city: City) -> str:
    """What is left, in one line."""
    left = [f"{s}: {w}" for s, w in sorted(city.truth.work.items())
            if w.unsent or w.calls or w.parked or w.awaits_since or w.halted]
    left += [f"{p.name} is {p.done or 'not taken in'} at {gate.label}" for p in city.people
             if p.done != "covered" and (gate := city.schedule.gates.get(p.name))]
    return "; ".join(left) or ", ".join(f"{g.actor}:{g.label}" for g in city.schedule.open_gates())

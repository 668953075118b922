"""Who applies, what goes wrong for whom, and what must come out? The demo's plan, drawn from one seed."""

from enum import Enum
from random import Random

from msgspec import Struct

from sandbox import expected, mischief
from sandbox.blunders import BLUNDERS, Blunder
from sandbox.expected import Outcome, Reach
from sandbox.people import GROWN_UP, Resident, settle

CHANNELS = ("wechat", "alipay", "bank", "counter")
CHANNEL_SHARES = (45, 25, 20, 10)  # per cent of citizens
ONLINE = frozenset({"wechat", "alipay"})  # these pay at the provider, the others at a desk that reports it

DUPLICATE_COMMANDS = 0.03
LATE_CALLBACKS = 0.01
REPEATED_CALLBACKS = 0.01
LOST_CALLBACKS = 0.001
WRONG_AMOUNTS = 0.005
PAID_TWICE = 0.005
NEVER_PAY = 0.01
RETURNED = 0.01
REJECTED = 0.007
SMS_REFUSED = 0.01  # phones whose owner has a mail address
UNREACHABLE = 0.002  # phones whose owner has none
SMS_UNANSWERED = 0.01  # phones
IMPATIENT = 0.05  # ask for the bill once before they were told that there is one

BY_HTTP = 0.05  # the others come over Kafka

RETURN_REASONS = ("DOC_MISSING", "DOC_UNREADABLE")
REJECT_REASONS = ("COVERED_ELSEWHERE", "NOT_RESIDENT")


class Step(Enum):
    """What a citizen does, in this order; any of it may be said twice."""

    REGISTER = "register"
    SUBMIT = "submit"
    REVIEW = "review"
    QUERY = "query"
    PAY = "pay"


class Conduct(Enum):
    """How a citizen's payment goes."""

    NOTHING_DUE = "nothing due"
    ON_TIME = "on time"
    LATE_CALLBACK = "the provider's callback comes late"
    REPEATED_CALLBACK = "the provider says it twice"
    LOST_CALLBACK = "the provider's callback never comes"
    WRONG_AMOUNT = "another amount than due arrives"
    TWICE = "paid through two channels"
    NEVER = "never paid"


class Line(Enum):
    """What the SMS gateway does with a message for a phone; the value is the simulator's fault."""

    TAKES = "ok"
    REFUSED = "bad_number"
    UNANSWERED = "answer_lost"


class Citizen(Struct, frozen=True, kw_only=True):
    """One application and its fate. claims: what the applicant says; certified: what the agency finds.

    pays_fen: what is paid at the citizen's own channel (0: nothing). also_at: the second channel of who pays
    twice.
    says_twice: the steps whose command is sent again under the same request id. by_http: comes through the
    doors. line: of the phone, which may be another's.
    """

    number: int
    who: Resident
    channel: str
    claims: tuple[str, ...]
    decision: str
    certified: tuple[str, ...]
    reasons: tuple[str, ...]
    conduct: Conduct
    pays_fen: int
    also_at: str
    says_twice: frozenset[Step]
    impatient: bool
    by_http: bool
    line: Line

    @property
    def online(self) -> bool:
        """Pays at the payment provider."""
        return self.channel in ONLINE

    @property
    def reach(self) -> Reach:
        """How this citizen can be told something."""
        return Reach(
            phone=self.who.phone,
            email=self.who.email,
            refuses=self.line is Line.REFUSED,
            breaks=self.line is Line.UNANSWERED,
        )


class City(Struct, frozen=True, kw_only=True):
    """The whole plan. expected stands beside each citizen by position; mischief has its own expectations
    inside.
    """

    seed: int
    citizens: tuple[Citizen, ...]
    expected: tuple[Outcome, ...]
    garbage: tuple[mischief.Garbage, ...]
    forgeries: tuple[mischief.Forgery, ...]
    blunders: tuple[Blunder, ...] = BLUNDERS

    @property
    def sms_faults(self) -> dict[str, str]:
        """The SMS gateway's fault by phone, where it has one."""
        return {
            citizen.who.phone: citizen.line.value
            for citizen in self.citizens
            if citizen.line is not Line.TAKES
        }


def plan(count: int, seed: int) -> City:
    """The city of `count` citizens for a seed; the same arguments give the same city, to the byte."""
    random = Random(seed)
    residents = settle(count, random)
    claims = [_claims(resident, random) for resident in residents]
    certified = [_certified(claim, random) for claim in claims]
    decisions = _decisions(count, random)
    channels = random.choices(CHANNELS, CHANNEL_SHARES, k=count)
    channels[:1] = [CHANNELS[0]]  # the blunders are about the first citizen, whom one channel knows
    dues = [expected.due_fen(keys) for keys in certified]
    conducts = _conducts(decisions, dues, channels, random)
    lines = _lines(residents, Random(f"{seed} lines"))
    citizens = tuple(
        Citizen(
            number=number,
            who=residents[number],
            channel=channels[number],
            claims=claims[number],
            decision=decisions[number],
            certified=certified[number] if decisions[number] == "APPROVE" else (),
            reasons=_reasons(decisions[number], random),
            conduct=conducts[number],
            pays_fen=_pays(conducts[number], dues[number], random),
            also_at=_second_channel(channels[number]) if conducts[number] is Conduct.TWICE else "",
            # The blunders play with the first citizen's request ids, so nothing else happens to them.

            says_twice=frozenset(step for step in Step if random.random() < DUPLICATE_COMMANDS and number),
            impatient=random.random() < IMPATIENT,
            by_http=random.random() < BY_HTTP,
            line=lines.get(residents[number].phone, Line.TAKES),
        )
        for number in range(count)
    )
    return City(
        seed=seed,
        citizens=citizens,
        expected=tuple(_outcome(citizen) for citizen in citizens),
        garbage=mischief.garbage(random),
        forgeries=mischief.forgeries(_victims(citizens), random),
    )


def _lines(residents: list[Resident], random: Random) -> dict[str, Line]:
    """Phones at which something goes wrong. A child's phone is the head's, so its messages share that fate.
    """
    owners = [resident for resident in residents if resident.age >= GROWN_UP]
    with_mail = [owner.phone for owner in owners if owner.email]
    without = [owner.phone for owner in owners if not owner.email]
    lines: dict[str, Line] = {}
    for phones, rate, line in (
        (with_mail, SMS_REFUSED, Line.REFUSED),
        (without, UNREACHABLE, Line.REFUSED),
        (without, SMS_UNANSWERED, Line.UNANSWERED),
    ):
        free = [phone for phone in phones if phone not in lines]
        lines |= dict.fromkeys(random.sample(free, min(len(free), share(len(residents), rate))), line)
    return lines


def _claims(resident: Resident, random: Random) -> tuple[str, ...]:
    keys = []
    if resident.age < 6:
        keys.append("preschool")
    elif resident.age < 23 and random.random() < 0.95:
        keys.append("student")
    draw = random.random()
    if draw < 0.02:
        keys.append("orphan" if resident.age < 18 else "extremely_poor")
    elif draw < 0.07:
        keys.append("subsistence")
    if random.random() < 0.03:
        keys.append("severely_disabled")
    return tuple(keys)


def _certified(claims: tuple[str, ...], random: Random) -> tuple[str, ...]:
    """One claim in twenty is not proven by the agency's records."""
    return tuple(key for key in claims if random.random() >= 0.05)


def _decisions(count: int, random: Random) -> list[str]:
    decisions = ["APPROVE"] * count
    unlucky = random.sample(range(count), share(count, RETURNED) + share(count, REJECTED))
    for place, number in enumerate(unlucky):
        decisions[number] = "RETURN" if place < share(count, RETURNED) else "REJECT"
    return decisions


def _reasons(decision: str, random: Random) -> tuple[str, ...]:
    match decision:
        case "RETURN":
            return (random.choice(RETURN_REASONS),)
        case "REJECT":
            return (random.choice(REJECT_REASONS),)
        case _:
            return ()


def _conducts(decisions: list[str], dues: list[int], channels: list[str], random: Random) -> list[Conduct]:
    conducts = [
        Conduct.ON_TIME if decision == "APPROVE" and due else Conduct.NOTHING_DUE
        for decision, due in zip(decisions, dues, strict=True)
    ]
    count = len(conducts)
    online = [n for n, conduct in enumerate(conducts) if conduct is Conduct.ON_TIME and channels[n] in ONLINE]
    for conduct, rate in (
        (Conduct.LATE_CALLBACK, LATE_CALLBACKS),
        (Conduct.REPEATED_CALLBACK, REPEATED_CALLBACKS),
        (Conduct.LOST_CALLBACK, LOST_CALLBACKS),
    ):
        _assign(conducts, online, conduct, share(count, rate), random)
    payers = [n for n, conduct in enumerate(conducts) if conduct is Conduct.ON_TIME]
    for conduct, rate in (
        (Conduct.WRONG_AMOUNT, WRONG_AMOUNTS),
        (Conduct.TWICE, PAID_TWICE),
        (Conduct.NEVER, NEVER_PAY),
    ):
        _assign(conducts, payers, conduct, share(count, rate), random)
    return conducts


def _assign(conducts: list[Conduct], pool: list[int], conduct: Conduct, count: int, random: Random) -> None:
    """Give `count` of the pool this conduct and take them out of it."""
    for _ in range(min(count, len(pool))):
        number = pool.pop(random.randrange(len(pool)))
        conducts[number] = conduct


def _pays(conduct: Conduct, due_fen: int, random: Random) -> int:
    match conduct:
        case Conduct.NOTHING_DUE | Conduct.NEVER:
            return 0
        case Conduct.WRONG_AMOUNT:
            return due_fen + random.choice((-1, 1, -10_000, 10_000))
        case _:
            return due_fen


def _second_channel(channel: str) -> str:
    return "counter" if channel == "bank" else "bank"


def _victims(citizens: tuple[Citizen, ...]) -> mischief.Victims:
    return mischief.Victims(
        applicants=[citizen.number for citizen in citizens],
        billed=[citizen.number for citizen in citizens if citizen.conduct is not Conduct.NOTHING_DUE],
    )


def _outcome(citizen: Citizen) -> Outcome:
    twice = citizen.conduct is Conduct.TWICE
    return expected.outcome(
        decision=citizen.decision,
        certified=citizen.certified,
        paid_fen=[citizen.pays_fen] * (2 if twice else 1) if citizen.pays_fen else [],
    )


def share(count: int, rate: float) -> int:
    """How many of `count` a rate means: rounded, so a small city has none of what is rare."""
    return round(count * rate)

"""Who lives in the simulated city? People who apply, are taken in, and pay, or not; each follows a plan."""

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aiokafka import ConsumerRecord
from msgspec import Struct
from msgspec.json import decode, encode
from msgspec.structs import replace

from contracts.answers import Accepted, Rejected, says_again
from contracts.enrollment import Identity, RegisterAccount, ReviewDecision, SubmitEnrollment
from contracts.message import CONTRACTS, contract_of
from contracts.partners import PARTNERS
from contracts.payment import CartItem, ReportPayment, StartPayment
from services.chassis import trust
from services.chassis.door import Busy
from services.chassis.ids import uuid7
from services.payment.rules import ProviderPaid
from tests.people import AGENCY, REGION, YEAR, Citizen
from tests.simulation.broker import Letter
from tests.simulation.clockwork import START
from tests.world import keyring

if TYPE_CHECKING:
    from tests.simulation.city import City

TWICE = "twice"         # said two times
OTHERWISE = "otherwise"     # said again in other words, under the same number
FORGED, FALSE = "forged", "F"       # somebody changes a copy of it on the way; how its number begins
MISPAID = "mispaid"     # one fen too little comes first, and then the money that was asked for
NEVER = "never"         # a callback that does not come
ONLINE, COUNTER, BOTH, WAIVED, UNPAID = "online", "counter", "both", "waived", "unpaid"
PLANS = (ONLINE, COUNTER, BOTH, WAIVED, ONLINE, UNPAID)
PATIENCE = 20
EAGER = 3               # so often a command is said again as soon as anything is heard
Answer = Accepted | Rejected
_REWORDED: dict[type[Struct], dict[str, str]] = {
    SubmitEnrollment: {"submitted_by": "family"}, ReviewDecision: {"officer": "officer-8"},
}
_FACTS = {c.message.__name__: c.type for c in CONTRACTS.values()}


def is_conflict(answer: Answer) -> bool:
    """Whether it says that the number was used for something else."""
    return isinstance(answer, Rejected) and answer.refusal.code == "IDEMPOTENCY_CONFLICT"


def signed(city: "City", code: str, command: Struct, *, value: bytes | None = None) -> Letter:
    """A command as the partner's own client makes it."""
    partner, contract = PARTNERS[code], contract_of(command)
    key = str(getattr(command, contract.key)).encode()
    body = encode(command) if value is None else value
    headers = {
        "ce_specversion": b"1.0", "ce_id": uuid7().encode(),
        "ce_source": trust.source_of(partner.topic).encode(), "ce_type": contract.type.encode(),
        "ce_time": city.nature.now().isoformat().encode(), "content-type": b"application/json",
    }
    signature = trust.sign(keyring(code), topic=partner.topic, key=key, headers=headers, value=body,
                           money=contract.money)
    return Letter(key, body, [*headers.items(), *signature])


def _less(told: ProviderPaid) -> ProviderPaid:
    """Another transaction for the same order, one fen short."""
    fen = told.amount_fen - 1
    return replace(told, notice_id=f"{told.notice_id}-less", transaction_id=f"{told.transaction_id}-less",
                   amount_fen=fen, payer_fen=fen)


class Person:
    """One citizen with a plan. done: how far it came."""

    def __init__(self, city: "City", number: int, plan: str) -> None:
        self.city, self.name, self.plan = city, f"c{number}", plan
        self.who = Citizen(number=number, name="李娜", id_number=_id_number(number),
                           phone=f"1990000{number:04d}")
        self.person_id = self.enrollment_id = ""
        self.done = ""
        self._asked = 0

    async def live(self) -> None:
        """From the first word to cover."""
        channel = "bank" if self.plan == COUNTER else "wechat"
        self.person_id = await self._register(channel)
        self.city.names[self.person_id] = self.name
        answer = await self._until_accepted(channel, lambda request_id: SubmitEnrollment(
            request_id=request_id, person_id=self.person_id, region_code=REGION, scheme="RESIDENT",
            insurance_year=YEAR, categories=[], submitted_by="self"))
        self.enrollment_id = str(answer.result["enrollment_id"])
        await self._until_accepted(AGENCY, self._decided)
        if self.plan == WAIVED:
            await self._fact("BillWaived")
        else:
            await self._pay(channel)
        self.done = "paid"
        if self.plan != UNPAID:
            await self._fact("CoverageWaiting")
        self.done = "covered"

    async def _register(self, channel: str) -> str:
        def command(request_id: str) -> Struct:
            sealed: Any = keyring(channel).seal(self.who.registration, reader="enrollment", place=request_id)
            return RegisterAccount(request_id=request_id, region_code=REGION, registration=sealed)

        while True:
            answer = await self._ask(channel, command)
            if isinstance(answer, Accepted):
                return str(answer.result["person_id"])
            if answer.refusal.code == "ACCOUNT_EXISTS":
                return str(answer.refusal.expected)

    def _decided(self, request_id: str) -> Struct:
        return ReviewDecision(
            request_id=request_id, person_id=self.person_id, enrollment_id=self.enrollment_id,
            decision="APPROVE", officer="officer-7", decided_at=self.city.nature.now(),
            categories=["orphan"] if self.plan == WAIVED else [],
        )

    async def _pay(self, channel: str) -> None:
        bill = await self._fact("BillIssued")
        if self.plan == BOTH:
            await self._register("bank")
        if self.plan != COUNTER:
            await self._pay_online(channel, bill)
        if self.plan in (COUNTER, BOTH):
            await self._pay_counter(bill)

    async def _pay_online(self, channel: str, bill: Any) -> None:
        item = CartItem(person_id=self.person_id, obligation_id=bill.obligation_id, version=bill.version,
                        amount_fen=bill.due_fen)
        while True:
            answer = await self._ask(channel, lambda request_id: StartPayment(
                request_id=request_id, person_id=self.person_id, provider="wechat", items=[item]))
            if isinstance(answer, Rejected):
                if answer.refusal.code == "BILL_ALREADY_SETTLED":
                    return
                await self._waits()
                continue
            if self.plan == UNPAID:
                return
            await self.city.schedule.gate(self.name, "pays")
            order_no = str(answer.result["order_no"])
            told = self.city.provider.pay(order_no, f"4200{self.name}{self._asked}")
            if told is not None:
                self.city.spawn(f"callback {self.name}", self._call_back(told))
                return

    async def _call_back(self, told: ProviderPaid) -> None:
        """The provider says it until somebody has heard it."""
        schedule = self.city.schedule
        fault = await schedule.gate(f"provider.{self.name}", "callback", (NEVER, TWICE, MISPAID))
        tells = {NEVER: [], TWICE: [told, told], MISPAID: [_less(told), told]}.get(fault, [told])
        while tells:
            member = self.city.door_of("payment")
            if member is not None:
                try:
                    await member.tell(tells[0])
                    tells = tells[1:]
                except Busy:
                    pass
            await schedule.gate(f"provider.{self.name}", "callback again", (),
                                lambda: self.city.door_of("payment") is not None)

    async def _pay_counter(self, bill: Any) -> None:
        """Once more, as another transaction, while our money is put aside because no bill was there yet."""
        card = Identity(name=self.who.name, id_number=self.who.id_number)
        paid_at = START - timedelta(hours=2)        # the past, whatever clock is wrong
        for number in itertools.count(1):
            ref = f"bank-{self.name}-{number}"
            sealed: Any = keyring("bank").seal(card, reader="payment", place=ref)

            def command(request_id: str, ref: str = ref, sealed: Any = sealed) -> Struct:
                return ReportPayment(
                    request_id=request_id, person_id=self.person_id, obligation_id=bill.obligation_id,
                    insurance_year=YEAR, amount_fen=bill.due_fen, channel_ref=ref, paid_at=paid_at,
                    method="CASH", payer_saw=sealed)

            answer = await self._until_accepted("bank", command)
            if self.plan == BOTH or answer.result["status"] == "SETTLED":
                return
            await self._waits()

    # ---- speaking and hearing

    async def _until_accepted(self, code: str, command: Callable[[str], Struct]) -> Accepted:
        refusals = []
        for _ in range(PATIENCE):
            answer = await self._ask(code, command)
            if isinstance(answer, Accepted):
                return answer
            refusals.append(answer.refusal)
            await self._waits()
        raise AssertionError(f"{self.name} is refused again and again: {refusals[-1]}")

    async def _ask(self, code: str, command: Callable[[str], Struct]) -> Answer:
        """Say it, again while nobody answers or the answer says so, always the same under one request id."""
        self._asked += 1
        request_id = f"{self.name}-{self._asked}"
        said, broker = command(request_id), self.city.broker
        kind, heard = type(said).__name__, 0
        for attempt in itertools.count():
            faults = (TWICE, FORGED, OTHERWISE) if type(said) in _REWORDED else (TWICE, FORGED)
            fault = await self.city.schedule.gate(self.name, f"says {kind}", faults)
            for _ in range(2 if fault == TWICE else 1):
                broker.append(PARTNERS[code].topic, None, signed(self.city, code, said))
            if fault == FORGED:
                broker.append(PARTNERS[code].topic, None, self._forged(code, said, request_id))
            if fault == OTHERWISE:
                other = replace(said, **_REWORDED[type(said)])
                broker.append(PARTNERS[code].topic, None, signed(self.city, code, other))
                self.city.reworded.add(request_id)
            await self._hears(request_id, heard)
            answers = broker.answers.get(request_id, [])
            if len(answers) > heard:
                heard = len(answers)
                last = next((a for a in reversed(answers) if not is_conflict(a)), answers[-1])
                self.city.schedule.note(
                    f"{self.name} hears {last.refusal.code if isinstance(last, Rejected) else 'yes'}")
                if not says_again(last):
                    return last
            await self._waits(len(broker.order) if attempt < EAGER else None)
        raise AssertionError("for ever")

    def _forged(self, code: str, said: Struct, request_id: str) -> Letter:
        """What was signed, and one letter of it was changed on the way."""
        letter = signed(self.city, code, replace(said, request_id=f"f{request_id}"))
        assert letter.value is not None
        changed = letter.value.replace(f'"f{request_id}"'.encode(), f'"{FALSE}{request_id}"'.encode())
        return Letter(letter.key, changed, letter.headers)

    async def _hears(self, request_id: str, heard: int) -> None:
        """Until there are more answers than those, or somebody nudges."""
        nudged, answers = self.city.nudges, self.city.broker.answers
        await self.city.schedule.gate(
            self.name, "hears", (),
            lambda: len(answers.get(request_id, ())) > heard or self.city.nudges > nudged)

    async def _waits(self, size: int | None = None) -> None:
        """Until somebody nudges. size: or something more than this is said."""
        nudged, said = self.city.nudges, self.city.broker.order
        await self.city.schedule.gate(
            self.name, "waits", (),
            lambda: self.city.nudges > nudged or (size is not None and len(said) > size))

    async def _fact(self, name: str) -> Any:
        """Until it is said of this person."""
        kind = _FACTS[name]
        found: list[ConsumerRecord] = []

        def is_said() -> bool:
            found[:] = self.city.broker.facts(kind, self.person_id)
            return bool(found)

        await self.city.schedule.gate(self.name, f"sees {name}", (), is_said)
        return decode(found[0].value, type=CONTRACTS[kind].message)


def _id_number(number: int) -> str:
    """A resident's number with its check digit."""
    body = f"99010019900101{number:03d}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return body + "10X98765432"[sum(int(d) * w for d, w in zip(body, weights)) % 11]

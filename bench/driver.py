"""Who applies, reviews and pays during a benchmark? The world outside as one process, told what to do line
by line.

`python -m bench.driver FILE`: orders come on standard input as JSON lines, each is answered by one line.
Nothing that can be made before the clock runs is made while it runs: applications are signed beforehand,
and so are the bank's reports, between the two acts.
"""

import asyncio
import gc
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer
from msgspec import Struct

from bench import sink
from bench.clients import Headers, Record, arrivals, consumer_at_end, producer, send, stream
from bench.load import SCHEME, YEAR, Applicant, read
from contracts.answers import Accepted, Rejected
from contracts.billing import BILLS
from contracts.enrollment import (
    COVERAGES,
    ENROLLMENTS,
    Identity,
    RegisterAccount,
    Registration,
    ReviewDecision,
    SubmitEnrollment,
)
from contracts.message import Sealed, contract_of
from contracts.partners import PARTNERS
from contracts.payment import ReportPayment
from sandbox.people import REGION
from services.chassis import trust
from services.chassis.ids import partition_of, uuid7
from services.chassis.keys import Keyring, load_keyring
from services.chassis.relay import cheap_lz4
from services.chassis.settings import Kafka

BANK, AGENCY = PARTNERS["bank"].topic, PARTNERS[REGION].topic
IN_FLIGHT = 2_000  # registrations that wait for their answer
SUBMITTED = b"enrollment.enrollment_submitted.v1"
ISSUED = b"billing.bill_issued.v1"
ACTIVE = b"enrollment.coverage_activated.v1"


class World(Struct, frozen=True, kw_only=True):
    """What the driver reads when it starts. prefix: of the topics' names, empty for the services' own.

    bank, agency: how each gets into Kafka. intents: the file of who comes. skew_seconds: business clock minus
    system clock. run: makes ids new.
    """

    prefix: str
    bank: Kafka
    agency: Kafka
    keys: str
    intents: str
    seed: int
    run: str
    skew_seconds: float


class Order(Struct, frozen=True, kw_only=True):
    """One line. do: register, prepare, apply, sign, pay, steady. first, count: which applicants. people:
    their ids, if known. rate: how many a second. misfortunes: what goes wrong for some, does.
    """

    do: str
    rate: float = 0.0
    first: int = 0
    count: int = 0
    people: list[str] = []
    misfortunes: bool = False


class Submitted(Struct, gc=False):
    """What the agency looks at."""

    person_id: str
    enrollment_id: str


class Issued(Struct, gc=False):
    """What the bank looks at."""

    person_id: str
    obligation_id: str
    due_fen: int


decode_submitted = msgspec.json.Decoder(Submitted).decode
decode_issued = msgspec.json.Decoder(Issued).decode
decode_answer = msgspec.json.Decoder(Accepted | Rejected).decode
_encode = msgspec.json.Encoder().encode


class Voice:
    """One partner's way of saying things on its topic."""

    def __init__(self, topic: str, source: str, keys: Keyring, now: Callable[[], datetime]) -> None:
        self.topic, self.keys, self._now, self._source = topic, keys, now, source.encode()

    def say(self, command: Struct, part: int) -> Record:
        """A signed command."""
        contract = contract_of(command)
        key, value = getattr(command, contract.key).encode(), _encode(command)
        headers: Headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", uuid7().encode()),
            ("ce_source", self._source),
            ("ce_type", contract.type.encode()),
            ("ce_time", self._now().isoformat().encode()),
            ("content-type", b"application/json"),
        ]
        headers += trust.sign(
            self.keys, topic=self.topic, key=key, headers=dict(headers), value=value, money=contract.money
        )
        return Record(part, key, value, headers)


class Driver:
    """The partners' side of every business transaction of a run."""

    def __init__(self, world: World) -> None:
        self.world, self.skew = world, timedelta(seconds=world.skew_seconds)
        keys = Path(world.keys)
        self.bank = self._voice(BANK, load_keyring(keys / "bank.json"))
        self.agency = self._voice(AGENCY, load_keyring(keys / f"{REGION}.json"))
        self.people: list[Applicant] = read(Path(world.intents))
        self.ids: dict[int, str] = {}
        self._of: dict[str, Applicant] = {}
        self.ready: list[Record] = []  # applications
        self._signed: list[Record] = []  # reports of payments
        self._bills: list[tuple[Issued, int]] = []
        self._known: set[bytes] = set()  # ce_ids: who was killed says things twice

    async def start(self) -> None:
        """Connect; hear what is published from now on."""
        world, prefix = self.world, self.world.prefix
        self._from_bank, self._from_agency = producer(world.bank), producer(world.agency)
        await asyncio.gather(self._from_bank.start(), self._from_agency.start())
        self._heard = await consumer_at_end(
            world.agency, [prefix + ENROLLMENTS, prefix + BILLS, prefix + COVERAGES]
        )

    async def stop(self) -> None:
        """Disconnect."""
        await asyncio.gather(self._from_bank.stop(), self._from_agency.stop(), self._heard.stop())

    async def obey(self, order: Order) -> dict[str, Any]:
        """Do it; what there is to say about it."""
        match order.do:
            case "register":
                return await self.register(order.first, order.count)
            case "prepare":
                return await self.prepare(order.first, order.count, order.people, order.misfortunes)
            case "apply":
                return await self.apply(order.count)
            case "sign":
                return await self.sign(order.misfortunes)
            case "pay":
                return await self.pay(order.count)
            case "steady":
                return await self.steady(order.count, order.rate)
            case _:
                raise ValueError(order.do)

    async def register(self, first: int, count: int) -> dict[str, Any]:
        """Open an account for each; their person_ids. It is not measured."""
        replies = await consumer_at_end(self.world.bank, [PARTNERS["bank"].replies])
        try:
            todo = {
                f"{self.world.run}-{one.number}-register": one for one in self.people[first : first + count]
            }
            waiting = list(todo.items())
            asked = 0
            while todo:
                room = IN_FLIGHT - (asked - (count - len(todo)))
                now, waiting = waiting[:room], waiting[room:]
                asked += len(now)
                await asyncio.gather(
                    *await send(self._from_bank, BANK, [self.registration(*each) for each in now])
                )
                await self._hear_registered(replies, todo)
        finally:
            await replies.stop()
        return {"people": [self.ids[number] for number in range(first, first + count)]}

    async def _hear_registered(self, replies: AIOKafkaConsumer, todo: dict[str, Applicant]) -> None:
        for records in (await replies.getmany(timeout_ms=200)).values():
            for record in records:
                self.registered(record.value, todo)

    def registered(self, value: bytes, todo: dict[str, Applicant]) -> None:
        """Take in an answer, if it is one that is waited for."""
        answer = decode_answer(value)
        one = todo.pop(answer.request_id, None)
        if isinstance(answer, Rejected):
            raise SystemExit(f"registration refused: {answer.refusal.code} {answer.refusal.field}")
        if one is not None:
            self.ids[one.number] = answer.result["person_id"]

    async def prepare(
        self, first: int, count: int, people: list[str], misfortunes: bool = False
    ) -> dict[str, Any]:
        """Sign the applications of a round. people: ids of the first ones, where another driver registered
        them. misfortunes: some say it twice.
        """
        self.ids |= dict(enumerate(people))
        some = self.people[first : first + count]
        self._of |= {self.ids[one.number]: one for one in some}
        self.ready = [
            self.bank.say(
                SubmitEnrollment(
                    request_id=f"{self.world.run}-{one.number}-submit",
                    person_id=self.ids[one.number],
                    region_code=REGION,
                    scheme=SCHEME,
                    insurance_year=YEAR,
                    categories=list(one.categories),
                    submitted_by=f"clerk-{one.number % 90}",
                ),
                partition_of(self.ids[one.number]),
            )
            for one in some
        ]
        if misfortunes:
            self.ready = [record for one, record in zip(some, self.ready) for _ in range(1 + one.twice)]
        return {"records": len(self.ready)}

    async def apply(self, count: int) -> dict[str, Any]:
        """Act one: everybody applies at once, the agency approves what it hears of; over when every bill is
        heard.
        """
        sends = await send(self._from_bank, self.bank.topic, self.ready)
        self._bills = []
        await self._listen(sends, bills=count, covered=0)
        return {"bills": len(self._bills)}

    async def _listen(self, sends: list[Any], *, bills: int, covered: int) -> None:
        """Until so many bills and covers were heard of and everything that was sent has arrived."""
        at = time.monotonic()
        while len(self._bills) < bills or covered > 0:
            decisions: list[Record] = []
            for place, records in (await self._heard.getmany(timeout_ms=200)).items():
                for record in records:
                    kind, ce_id, at = record.headers[3][1], record.headers[1][1], time.monotonic()
                    if ce_id in self._known:
                        continue
                    self._known.add(ce_id)
                    if kind == SUBMITTED:
                        decisions.append(self.decision(decode_submitted(record.value), place.partition))
                    elif kind == ISSUED:
                        self._bills.append((decode_issued(record.value), place.partition))
                    covered -= kind == ACTIVE
            if decisions:
                sends += await send(self._from_agency, self.agency.topic, decisions)
            self._complain(at, f"{len(self._bills)} of {bills} bills, {covered} covers missing")
        await asyncio.gather(*sends)

    async def sign(self, misfortunes: bool) -> dict[str, Any]:
        """Between the acts: the bank signs its reports. RSA costs a third of a millisecond and is not ours
        to be measured. misfortunes: some say it twice, some pay another amount first, some come after all
        others.
        """
        with ThreadPoolExecutor(2) as pool:
            loop = asyncio.get_running_loop()
            halves = [self._bills[0::2], self._bills[1::2]]
            made = await asyncio.gather(*(loop.run_in_executor(pool, self.reports, half) for half in halves))
        self._signed = [record for half in made for record in half]
        if misfortunes:
            self._signed = self._misfortunes(self._signed)
        return {"records": len(self._signed)}

    async def pay(self, count: int) -> dict[str, Any]:
        """Act two: the bank reports all payments at once; over when everybody is said to be covered."""
        sends = await send(self._from_bank, self.bank.topic, self._signed)
        await self._listen(sends, bills=0, covered=count)
        return {"covered": count}

    async def steady(self, count: int, rate: float) -> dict[str, Any]:
        """Both acts at once, each at this rate: those who were billed before pay, those who are ready apply.

        When each was due to be sent, by person, in seconds since the epoch; late sending does not move it.
        """
        self._bills = []
        dice, began = Random(self.world.seed), time.time() + 0.1
        due = [[began + at for at in arrivals(run, rate, dice)] for run in (self.ready, self._signed)]
        both = sorted(zip(due[0] + due[1], self.ready + self._signed), key=lambda each: each[0])
        listening = self._listen([], bills=count, covered=len(self._signed))
        await asyncio.gather(stream(self._from_bank, self.bank.topic, both), listening)
        return {
            what: [(record.key.decode(), at) for record, at in zip(run, times)]
            for what, run, times in zip(("applied", "paid"), (self.ready, self._signed), due)
        }

    def _complain(self, at: float, what: str) -> None:
        if time.monotonic() - at > 60:
            raise SystemExit(f"nothing heard for a minute: {what}")

    def _voice(self, topic: str, keys: Keyring) -> Voice:
        return Voice(self.world.prefix + topic, trust.source_of(topic), keys, self._now)

    def _now(self) -> datetime:
        return datetime.now(UTC) + self.skew

    def registration(self, request_id: str, one: Applicant) -> Record:
        """The bank opens an account for somebody."""
        sealed: Sealed[Registration] = self.bank.keys.seal(
            one.registration, reader="enrollment", place=request_id
        )
        command = RegisterAccount(request_id=request_id, region_code=REGION, registration=sealed)
        return self.bank.say(command, partition_of(request_id))

    def decision(self, fact: Submitted, part: int) -> Record:
        """The agency approves."""
        one = self._of[fact.person_id]
        decision = ReviewDecision(
            request_id=f"{self.world.run}-{one.number}-review",
            person_id=fact.person_id,
            enrollment_id=fact.enrollment_id,
            decision="APPROVE",
            officer=f"officer-{one.number % 9}",
            decided_at=self._now(),
            categories=list(one.categories),
        )
        return self.agency.say(decision, part)

    def reports(self, bills: list[tuple[Issued, int]]) -> list[Record]:
        """The bank says that these were paid."""
        made = []
        for bill, part in bills:
            one = self._of[bill.person_id]
            if bill.due_fen != one.due_fen:
                raise SystemExit(
                    f"applicant {one.number} owes {one.due_fen} fen, the bill says {bill.due_fen}"
                )
            made.append(self._word(bill, part, f"{self.world.run}-{one.number}", bill.due_fen))
        return made

    def _word(self, bill: Issued, part: int, ref: str, fen: int) -> Record:
        seen: Sealed[Identity] = self.bank.keys.seal(
            self._of[bill.person_id].identity, reader="payment", place=ref
        )
        report = ReportPayment(
            request_id=f"{ref}-pay",
            person_id=bill.person_id,
            obligation_id=bill.obligation_id,
            insurance_year=YEAR,
            amount_fen=fen,
            channel_ref=ref,
            paid_at=self._now(),
            method="CARD",
            payer_saw=seen,
        )
        return self.bank.say(report, part)

    def _misfortunes(self, reports: list[Record]) -> list[Record]:
        bills = {bill.person_id: (bill, part) for bill, part in self._bills}
        said: list[Record] = []
        late: list[Record] = []
        for report in reports:
            bill, part = bills[report.key.decode()]
            one = self._of[bill.person_id]
            if one.wrong_fen:
                said.append(self._word(bill, part, f"{self.world.run}-{one.number}-wrong", one.wrong_fen))
            (late if one.late else said).extend([report] * (1 + one.twice))
        return said + late


async def main(world: World, kind: type[Driver] = Driver) -> None:
    """Obey until standard input ends."""
    cheap_lz4()
    gc.disable()  # a pause of ours would count as theirs
    driver = kind(world)
    await driver.start()
    loop = asyncio.get_running_loop()
    _tell({"otlp": sink.serve()})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        _tell(await driver.obey(msgspec.json.decode(line, type=Order)))
    await driver.stop()


def _tell(what: dict[str, Any]) -> None:
    sys.stdout.buffer.write(_encode(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=World)))

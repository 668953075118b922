"""How does the city live through its plan? Citizens and the agency act through public topics and doors."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any

import aiohttp
import msgspec
from aiokafka import AIOKafkaConsumer
from msgspec import Struct

from contracts.answers import Accepted, Rejected, says_again
from contracts.billing import BillIssued, QueryBill
from contracts.enrollment import (
    EnrollmentSubmitted,
    Identity,
    RegisterAccount,
    Registration,
    ReviewDecision,
    SubmitEnrollment,
)
from contracts.message import Sealed, contract_of
from contracts.operations import AdvanceClock
from contracts.payment import CartItem, ReportPayment, StartPayment
from sandbox.city import Citizen, City, Conduct, Step
from sandbox.ending import end
from sandbox.nuisance import Nuisance
from sandbox.partner import Answer, Partner, Unanswered
from sandbox.people import REGION
from sandbox.purse import Purse
from sandbox.watch import Watch

YEAR, SCHEME = 2025, "RESIDENT"
AT_FIRST, IN_FLIGHT = 200, 4_000  # citizens who act at the same time, until the first money settled and after
FIRST_SECONDS = 15.0
CLOCK_SECONDS = 240.0  # an advance runs the timers of all the time between
LATE_SECONDS = 3.0  # how late a late callback is
_BEHAVIOURS = {
    Conduct.LATE_CALLBACK: "late",
    Conduct.REPEATED_CALLBACK: "duplicate",
    Conduct.LOST_CALLBACK: "lost",
    Conduct.WRONG_AMOUNT: "wrong_amount",
}
_PAUSES = (0.5, 1.0, 2.0, *(3.0,) * 40)  # a channel that is told to try again does not hammer, nor give up
_SUBMITTED = contract_of(EnrollmentSubmitted).type.encode()
# Waited for before each citizen, with the share of the city that came before; with 1 when all have lived.
Pace = Callable[[float], Awaitable[None]]


async def at_once(_: float) -> None:
    """As fast as the services take them."""


class Refusal(Exception):
    """A citizen was refused what the plan grants. label: whose step; reason: the code."""

    def __init__(self, label: str, reason: str) -> None:
        super().__init__(f"{label}: {reason}")
        self.label, self.reason = label, reason


class Outside(Struct, frozen=True, kw_only=True):
    """Where the world outside Kafka is: doors by service (host:port), the payment provider's base URL."""

    doors: dict[str, str]
    provider: str


class Drive:
    """One run of the plan. done: how many citizens passed each step. people: person_id by citizen number.

    refused: who was refused, or not answered, against the plan, with the reason. nuisance: the mischief
    beside it.
    """

    def __init__(
        self, city: City, partners: dict[str, Partner], watch: Watch, outside: Outside, run: str
    ) -> None:
        self.city, self.partners, self.watch, self.outside = city, partners, watch, outside
        self.done: Counter[str] = Counter()
        self.people: dict[int, str] = {}
        self.refused: set[tuple[str, str]] = set()
        self.nuisance = Nuisance(city, partners, run)
        self._run = run  # makes request ids new in every run
        self._turns = asyncio.Semaphore(AT_FIRST)
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_review: set[str] = set()
        self._first: asyncio.Future[tuple[Citizen, str]] = asyncio.get_running_loop().create_future()

    async def live(self, submissions: AIOKafkaConsumer, pace: Pace) -> None:
        """Everything until the last citizen has done the last step. submissions: the agency's consumer."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=128)) as self._http:
            self._purse = Purse(self._http, f"{self.outside.provider}/simulator/pay")
            agency = asyncio.create_task(self._agency(submissions))
            nuisance = asyncio.create_task(self.nuisance.trouble(self._first))
            ramp = asyncio.create_task(self._let_more_in())
            try:
                for citizen in self.city.citizens:
                    await self._turns.acquire()
                    await pace(citizen.number / len(self.city.citizens))
                    self._spawn(self._citizen(citizen))
                while self._tasks:
                    await asyncio.wait(self._tasks)
                # else nobody got as far as an application, as the differences will say
                if self._first.done():
                    await nuisance
            finally:
                await end(agency, nuisance, ramp)  # first: the agency makes new tasks
                await end(*self._tasks)

    async def _let_more_in(self) -> None:
        """A few first, so that somebody soon sees money settle; then enough of them that batches are full."""
        deadline = time.monotonic() + FIRST_SECONDS
        await self.watch.until(lambda: self.watch.first_settled_at is not None, deadline)
        for _ in range(IN_FLIGHT - AT_FIRST):
            self._turns.release()

    async def advance_clock(self, to: datetime, services: tuple[str, ...]) -> None:
        """Move the business clock of each service; back when all say so. Raises Refusal, TimeoutError."""
        operators = self.partners["operators"]

        async def advance(service: str) -> None:
            order = AdvanceClock(
                request_id=f"{self._run}-clock-{service}", service=service, operator="demo", to=to
            )
            letters = [operators.letter(order)]
            answer = await operators.ask_raw(order.request_id, letters, wait_seconds=CLOCK_SECONDS)
            _granted(answer, f"clock of {service}")

        await asyncio.gather(*map(advance, services))

    def unlike_answers(self) -> set[str]:
        """Request ids that were said twice and were answered in different words, or not at all.

        One answer is enough: who says an order again before the provider has taken it hears of it once.
        """
        return {
            request_id
            for partner in self.partners.values()
            for request_id, answers in partner.answers.items()
            if len({str(answer) for answer in answers if not says_again(answer)}) != 1
        }

    # ---- one citizen

    async def _citizen(self, citizen: Citizen) -> None:
        try:
            await self._journey(citizen)
        except Refusal as refusal:
            self.refused.add((refusal.label, refusal.reason))
        except Unanswered as silence:
            self.refused.add((f"citizen {citizen.number}", f"no answer: {silence}"))
        finally:
            self._turns.release()

    async def _journey(self, citizen: Citizen) -> None:
        person_id = await self._register(citizen)
        await self._apply(citizen, person_id)
        if citizen.impatient:
            await self._ask_early(citizen, person_id)
        verdict = await self.watch.verdict(person_id)
        self.done["decided"] += 1
        if not isinstance(verdict, BillIssued):
            return
        bill = await self._query(citizen, person_id)
        await self.nuisance.forge_payment(citizen, person_id, bill, YEAR)
        if not citizen.pays_fen:
            return
        if citizen.online:
            order_no = await self._order(citizen, person_id, bill)
            pays = [self._pay_online(citizen, order_no)]
        else:
            pays = [self._report(citizen, citizen.channel, person_id, bill)]
        if citizen.also_at:
            pays.append(self._report(citizen, citizen.also_at, person_id, bill, second=True))
        await asyncio.gather(*pays)
        self.done["paid"] += 1

    async def _register(self, citizen: Citizen) -> str:
        who, partner = citizen.who, self.partners[citizen.channel]
        inside = Registration(
            id_kind="RESIDENT_ID", name=who.name, id_number=who.id_number, phone=who.phone, email=who.email
        )

        def command(request_id: str) -> RegisterAccount:
            return RegisterAccount(
                request_id=request_id,
                region_code=REGION,
                registration=partner.keys.seal(inside, reader="enrollment", place=request_id),
            )

        answer = await self._insist(citizen, Step.REGISTER, "enrollment", command)
        person_id: str = answer.result["person_id"]
        self.people[citizen.number] = person_id
        self.watch.citizens[person_id] = citizen.number
        self.done["registered"] += 1
        return person_id

    async def _apply(self, citizen: Citizen, person_id: str) -> None:
        def command(request_id: str) -> SubmitEnrollment:
            return SubmitEnrollment(
                request_id=request_id,
                person_id=person_id,
                region_code=REGION,
                scheme=SCHEME,
                insurance_year=YEAR,
                categories=list(citizen.claims),
            )

        await self.nuisance.forge_application(citizen, command("forged"))
        await self._insist(citizen, Step.SUBMIT, "enrollment", command)
        self.done["submitted"] += 1
        if citizen.number == 0:
            self._first.set_result((citizen, person_id))

    async def _ask_early(self, citizen: Citizen, person_id: str) -> None:
        """What do I owe? Nothing stands yet, mostly; who hears so waits until he is told."""
        query = QueryBill(
            request_id=f"{self._run}-{citizen.number}-early", person_id=person_id, insurance_year=YEAR
        )
        await self.partners[citizen.channel].ask(query)

    async def _query(self, citizen: Citizen, person_id: str) -> dict[str, Any]:
        def command(request_id: str) -> QueryBill:
            return QueryBill(request_id=request_id, person_id=person_id, insurance_year=YEAR)

        return (await self._insist(citizen, Step.QUERY, "billing", command)).result

    async def _order(self, citizen: Citizen, person_id: str, bill: dict[str, Any]) -> str:
        item = CartItem(
            person_id=person_id,
            obligation_id=bill["obligation_id"],
            version=bill["version"],
            amount_fen=bill["due_fen"],
        )

        def command(request_id: str) -> StartPayment:
            return StartPayment(request_id=request_id, person_id=person_id, provider="wechat", items=[item])

        answer = await self._insist(citizen, Step.PAY, "payment", command)
        self.done["ordered"] += 1
        order_no: str = answer.result["order_no"]
        return order_no

    async def _pay_online(self, citizen: Citizen, order_no: str) -> None:
        due_fen = self.city.expected[citizen.number].due_fen
        wish = {
            "out_trade_no": order_no,
            "payer_openid": f"citizen-{citizen.number}",
            "behaviour": _BEHAVIOURS.get(citizen.conduct, "ok"),
            "delay_seconds": LATE_SECONDS,
            "times": 2,
            "delta_fen": citizen.pays_fen - due_fen,
        }
        answer = await self._purse.pay(wish)
        if "code" in answer:
            raise Refusal(f"citizen {citizen.number} at the provider", str(answer["code"]))

    async def _report(
        self, citizen: Citizen, channel: str, person_id: str, bill: dict[str, Any], *, second: bool = False
    ) -> None:
        partner = self.partners[channel]
        channel_ref = f"{self._run}-{channel}-{citizen.number}"
        seen: Sealed[Identity] = partner.keys.seal(
            Identity(name=citizen.who.name, id_number=citizen.who.id_number),
            reader="payment",
            place=channel_ref,
        )
        paid_at = partner.now()

        def command(request_id: str) -> ReportPayment:
            return ReportPayment(
                request_id=request_id,
                person_id=person_id,
                obligation_id=bill["obligation_id"],
                insurance_year=YEAR,
                amount_fen=citizen.pays_fen,
                channel_ref=channel_ref,
                paid_at=paid_at,
                method="CARD",
                payer_saw=seen,
            )

        await self._insist(
            citizen, Step.PAY, "payment", command, channel=channel, suffix="-2" if second else ""
        )

    async def _insist(
        self,
        citizen: Citizen,
        step: Step,
        service: str,
        command: Callable[[str], Struct],
        *,
        channel: str = "",
        suffix: str = "",
    ) -> Accepted:
        """Ask until it is granted; after a refusal that says "try again" a little later, under the same
        request id: an earlier copy may still be under way, and must not be taken for another's. Raises
        Refusal.
        """
        partner = self.partners[channel or citizen.channel]
        twice = step in citizen.says_twice
        label = f"{self._run}-{citizen.number}-{step.value}{suffix}"
        answer: Answer | None = None
        for pause in _PAUSES:
            # a query may be asked any number of times
            request_id = f"{label}-{time.monotonic_ns()}" if step is Step.QUERY else label
            once = command(request_id)
            if citizen.by_http:
                answer = await partner.ask_http(
                    self._http, self.outside.doors[service], once, 2 if twice else 1
                )
            else:
                answer = await partner.ask(once, *([command(request_id)] if twice else []))
            if isinstance(answer, Accepted):
                return answer
            if not says_again(answer):
                break
            await asyncio.sleep(pause)  # as it was told
        return _granted(answer, f"citizen {citizen.number} {step.value}")

    # ---- the agency

    async def _agency(self, submissions: AIOKafkaConsumer) -> None:
        decode = msgspec.json.Decoder(EnrollmentSubmitted).decode
        while True:
            for records in (await submissions.getmany(timeout_ms=500)).values():
                for record in records:
                    if dict(record.headers).get("ce_type") != _SUBMITTED or record.value is None:
                        continue
                    fact = decode(record.value)
                    number = self.watch.citizens.get(fact.person_id)
                    if number is not None and fact.enrollment_id not in self._under_review:
                        self._under_review.add(fact.enrollment_id)
                        self._spawn(self._review(self.city.citizens[number], fact))

    async def _review(self, citizen: Citizen, fact: EnrollmentSubmitted) -> None:
        agency = self.partners[REGION]
        decision = ReviewDecision(
            request_id=f"{self._run}-{citizen.number}-review",
            person_id=fact.person_id,
            enrollment_id=fact.enrollment_id,
            decision=citizen.decision,
            officer=f"officer-{citizen.number % 9 + 1}",
            decided_at=agency.now(),
            categories=list(citizen.certified),
            reasons=list(citizen.reasons),
        )
        answer = await agency.ask(decision, *([decision] if Step.REVIEW in citizen.says_twice else []))
        if isinstance(answer, Rejected):
            self.refused.add((f"citizen {citizen.number} review", answer.refusal.code))
        self.done["reviewed"] += 1

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.refused.add(("the drive itself", f"{type(error).__name__}: {error}"))


def _granted(answer: Answer | None, label: str) -> Accepted:
    if isinstance(answer, Accepted):
        return answer
    raise Refusal(label, answer.refusal.code if answer else "never asked")

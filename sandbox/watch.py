"""What do the published topics say has happened? Read as the auditor, gathered as sets of citizens."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer
from msgspec import Struct

from contracts.billing import BillIssued, BillWaived
from contracts.enrollment import CoverageActivated, EnrollmentApproved, EnrollmentRejected, EnrollmentReturned
from contracts.message import contract_of
from contracts.notify import NotificationFailed, NotificationSent
from contracts.operations import MessageParked
from contracts.payment import FundsUnmatched, PaymentSettled
from contracts.topics import OPERATED
from sandbox.expected import Picture

Verdict = BillIssued | BillWaived | EnrollmentReturned | EnrollmentRejected


class Watch:
    """Reads on until stopped. topics: those to read. citizens: person_id to number, filled by whoever learns
    it; strangers are counted apart.

    seen: the sets so far, without what only the answers and the SMS gateway know. counts: records by type.
    """

    def __init__(self) -> None:
        self.citizens: dict[str, int] = {}
        self.seen = Picture()
        self.counts: Counter[str] = Counter()
        self.strangers: Counter[str] = Counter()
        self.first_settled_at: float | None = None  # time.monotonic()
        self.journeys: dict[int, str] = {}  # of the settled, by citizen
        self.templates: dict[str, str] = {}  # of what was told, by notification
        self.parked: Counter[tuple[str, str]] = Counter()  # (source, reason)
        self.last_at = time.monotonic()  # when the last record came
        self._verdicts: dict[str, asyncio.Future[Verdict]] = {}
        self._heard: set[bytes] = set()
        self._changed = asyncio.Event()
        self.topics: set[str] = set()
        self._takes: dict[bytes, tuple[Callable[[bytes], Any], Callable[[Any], None]]] = {}
        for message, take in self._reactions():
            contract = contract_of(message)
            self.topics |= {contract.topic.format(service=service) for service in OPERATED}
            self._takes[contract.type.encode()] = (msgspec.json.Decoder(message).decode, take)

    def _reactions(self) -> Iterable[tuple[type[Struct], Callable[[Any], None]]]:
        return (
            (EnrollmentApproved, lambda fact: self.seen.approved.add(self._number(fact))),
            (EnrollmentReturned, lambda fact: self._concluded(fact, self.seen.returned)),
            (EnrollmentRejected, lambda fact: self._concluded(fact, self.seen.rejected)),
            (BillIssued, self._bill_issued),
            (BillWaived, lambda fact: self._concluded(fact, self.seen.waived)),
            (PaymentSettled, self._settled),
            (FundsUnmatched, self._unmatched),
            (CoverageActivated, lambda fact: self.seen.covered.add(self._number(fact))),
            (NotificationSent, self._told),
            (NotificationFailed, self._untold),
            (MessageParked, self._parked),
        )

    async def run(self, consumer: AIOKafkaConsumer) -> None:
        """Read until cancelled. consumer: of the topics."""
        while True:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                self.last_at = time.monotonic()
                for record in records:
                    self._take(record.value, dict(record.headers))
            self._changed.set()

    async def until(self, holds: Callable[[], bool], deadline: float) -> bool:
        """Wait for a condition on what was seen; False when the deadline (time.monotonic()) came first."""
        while not holds():
            self._changed.clear()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await self._changed.wait()
            except TimeoutError:
                return holds()
        return True

    async def until_quiet(self, seconds: float, deadline: float) -> bool:
        """Wait until nothing came for so long; False when the deadline (time.monotonic()) came first."""
        while (now := time.monotonic()) < deadline:
            left = self.last_at + seconds - now
            if left <= 0:
                return True
            await asyncio.sleep(left)  # quiet is that nothing happens: only time can tell
        return False

    def verdict(self, person_id: str) -> "asyncio.Future[Verdict]":
        """What becomes of a person's application: a bill, a waiver, or a no."""
        future = self._verdicts.get(person_id)
        if future is None:
            future = self._verdicts[person_id] = asyncio.get_running_loop().create_future()
        return future

    def _take(self, value: bytes | None, headers: dict[str, bytes]) -> None:
        name = headers.get("ce_type", b"")
        event_id = headers.get("ce_id", b"")
        if (
            value is None or event_id in self._heard
        ):  # at least once: a relay that was killed sends some again
            return
        self._heard.add(event_id)
        self.counts[name.decode()] += 1
        found = self._takes.get(name)
        if found is not None:
            decode, react = found
            react(decode(value))

    def _number(self, fact: Any) -> int:
        number = self.citizens.get(fact.person_id)
        if number is None:
            self.strangers[type(fact).__name__] += 1
            return -1
        return number

    def _concluded(self, fact: Verdict, members: set[int]) -> None:
        members.add(self._number(fact))
        self._decided(fact)

    def _decided(self, fact: Verdict) -> None:
        future = self.verdict(fact.person_id)
        if not future.done():
            future.set_result(fact)

    def _bill_issued(self, fact: BillIssued) -> None:
        self.seen.billed.add((self._number(fact), fact.due_fen))
        self._decided(fact)

    def _settled(self, fact: PaymentSettled) -> None:
        if self.first_settled_at is None:
            self.first_settled_at = time.monotonic()
        number = self._number(fact)
        self.seen.settled.add((number, fact.amount_fen))
        self.journeys[number] = fact.journey

    def _unmatched(self, fact: FundsUnmatched) -> None:
        self.seen.suspense[self._number(fact), fact.amount_fen, fact.reason] += 1

    def _told(self, fact: NotificationSent) -> None:
        what = self._number(fact), fact.template
        (self.seen.by_mail if fact.road == "EMAIL" else self.seen.by_sms)[what] += 1
        self.seen.asked_after[what] += fact.doubtful
        self.templates[fact.notification_id] = fact.template

    def _untold(self, fact: NotificationFailed) -> None:
        self.seen.by_nobody[self._number(fact), fact.template] += 1

    def _parked(self, fact: MessageParked) -> None:
        self.parked[fact.source, fact.reason] += 1

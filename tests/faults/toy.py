"""What does the process under fire do? A toy billing: one row of effect for each message, and it stumbles.

`python -m tests.faults.toy` with CANBAO_SETTINGS as every service, and CANBAO_TOY naming the file of a Toy.
"""

import asyncio
import os
import random
import signal
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec
from msgspec import Struct

from contracts.billing import BillWaived, QueryBill
from contracts.enrollment import EnrollmentApproved
from contracts.message import ObligationId
from contracts.payment import PaymentSettled
from services.chassis.calls import Gateway, NotSent, Unknown
from services.chassis.ids import uuid7
from services.chassis.keys import Keyring
from services.chassis.refs import Refs
from services.chassis.service import Service
from services.chassis.settings import Settings
from services.chassis.subscriptions import Batch, Subscriptions
from services.chassis.transaction import Transaction
from tests.faults import planted

EFFECTS = (
    """create table if not exists billing.effect (
        serial bigint generated always as identity primary key, kind text not null, subject text not null,
        person text not null, number int not null, pid int not null,
        at timestamptz not null default clock_timestamp()
    )""",
    "create index if not exists effect_subject on billing.effect (subject)",
    "grant select, insert on billing.effect to billing",
)
POISON, SLOW, TIMER, CALL = "poison", "slow", "timer", "call"
refs = Refs("billing")
owes = refs.by_uuid("owes")
person = refs.by_uuid("person")


class Toy(Struct, frozen=True, kw_only=True):
    """provider: where calls go. cured: while this file is missing, poisoned facts raise and handlers stumble.
    held: while this file exists, a slow fact's handler waits. freeze: who finds this file between a question
    to the provider and what it sends then takes it away and stops. slow_seconds: the longest that any handler
    waits.

    passing, shy: the share of handler calls that fail as if the network did, or with a bug that shows only
    among several messages. plant: a protection to take out. bug: one of bugs.toml to plant.
    """

    provider: str
    cured: str
    held: str = ""
    freeze: str = ""
    passing: float = 0.0
    shy: float = 0.0
    slow_seconds: float = 0.0
    plant: str = ""
    bug: str = ""


class Remind(Struct, frozen=True, kw_only=True):
    """A timer."""

    enrollment_id: str


class Send(Struct, frozen=True, kw_only=True):
    """A request to the provider."""

    enrollment_id: str


class Sent(Struct, frozen=True, kw_only=True):
    """Its outcome."""

    enrollment_id: str


class Stumbling:
    """How a toy's handlers fail."""

    def __init__(self, toy: Toy) -> None:
        self.toy, self.chance = toy, random.Random(os.getpid())

    async def maybe(self, facts: Sequence[Struct]) -> None:
        """After the writes: nothing of them may stay."""
        if _exists(self.toy.cured):
            return
        for _ in range(self.chance.randrange(10)):
            await asyncio.sleep(self.toy.slow_seconds / 10)
        if self.chance.random() < self.toy.passing:
            raise self.chance.choice(
                [TimeoutError("away"), OSError("network"), asyncio.CancelledError("a stray one")]
            )
        if len(facts) > 1 and self.chance.random() < self.toy.shy:
            raise RuntimeError("a bug that shows in company only")

    async def on(self, fact: EnrollmentApproved) -> None:
        """What a fact's own marks ask for."""
        if POISON in fact.categories and not _exists(self.toy.cured):
            raise ZeroDivisionError("a bug")
        while SLOW in fact.categories and _exists(self.toy.held):
            await asyncio.sleep(0.02)


def _exists(path: str) -> bool:
    return Path(path).exists()


async def effects(tx: Transaction, kind: str, rows: list[tuple[str, str, int]]) -> None:
    """One row for each message: no constraint forbids a second one, so that it would be seen."""
    await tx.execute(
        "insert into effect(kind, subject, person, number, pid)"
        " select $1::text, s, p, n, $5::int from unnest($2::text[], $3::text[], $4::int[]) u(s, p, n)",
        kind,
        *map(list, zip(*rows, strict=True)),
        os.getpid(),
    )


def subscriptions(toy: Toy) -> Subscriptions:  # noqa: C901 -- five handlers of a few lines
    """Facts in both lanes, one waiting for the other; commands, timers and calls."""
    on, stumbling = Subscriptions("billing"), Stumbling(toy)

    @on(EnrollmentApproved, refs=lambda f: [owes(f.enrollment_id), person(f.person_id)], lane="bulk")
    async def approve(facts: Batch[EnrollmentApproved], tx: Transaction) -> None:
        for fact in facts:
            await stumbling.on(fact)
            tx.publish(_waived(fact, tx), sequence=1)
            if TIMER in fact.categories:
                later = tx.now + timedelta(seconds=stumbling.chance.random())
                tx.at(later, Remind(enrollment_id=fact.enrollment_id), journey=fact.journey)
            if CALL in fact.categories:
                request = Send(enrollment_id=fact.enrollment_id)
                tx.call(request, number=fact.enrollment_id, journey=fact.journey)
        await effects(tx, "approved", [(f.enrollment_id, f.person_id, f.insurance_year) for f in facts])
        await stumbling.maybe(facts)

    @on(PaymentSettled, refs=lambda f: [owes(f.enrollment_id)], lane="money")
    async def settle(facts: Batch[PaymentSettled], tx: Transaction) -> None:
        known = await tx.fetch(
            "select subject from effect where kind = 'approved' and subject = any($1::text[])",
            [fact.enrollment_id for fact in facts],
        )
        grounds = {row[0] for row in known}
        for fact in facts:
            if fact.enrollment_id in grounds:
                tx.publish(_waived(fact, tx), sequence=2)
                await effects(tx, "settled", [(fact.enrollment_id, fact.person_id, 0)])
            else:
                tx.wait(fact, owes(fact.enrollment_id))
        await stumbling.maybe(facts)

    @on(QueryBill, refs=lambda c: [person(c.person_id)])
    async def query(commands: Batch[QueryBill], tx: Transaction) -> None:
        for command in commands:
            tx.accept(command, nonce=uuid7())
        await effects(tx, "command", [(c.request_id, c.person_id, c.insurance_year) for c in commands])
        await stumbling.maybe(commands)

    @on(Remind, refs=lambda t: [owes(t.enrollment_id)])
    async def remind(timers: Batch[Remind], tx: Transaction) -> None:
        await effects(tx, "timer", [(t.enrollment_id, "", 0) for t in timers])
        await stumbling.maybe(timers)

    @on(Sent, refs=lambda m: [owes(m.enrollment_id)])
    async def hear(outcomes: Batch[Sent], tx: Transaction) -> None:
        await effects(tx, "call", [(o.enrollment_id, "", 0) for o in outcomes])
        await stumbling.maybe(outcomes)

    return on


def _waived(fact: EnrollmentApproved | PaymentSettled, tx: Transaction) -> BillWaived:
    number = fact.insurance_year if isinstance(fact, EnrollmentApproved) else 0
    return BillWaived(
        journey=fact.journey,
        region_code=fact.region_code,
        person_id=fact.person_id,
        enrollment_id=fact.enrollment_id,
        obligation_id=ObligationId(fact.enrollment_id),
        version=1,
        scheme="RESIDENT",
        insurance_year=number,
        category="orphan",
        subsidy_fen=0,
        policy="demo-2025",
        waived_at=tx.now,
    )


class Outside:
    """The gateway to the provider that the test keeps a book of."""

    def __init__(self, toy: Toy) -> None:
        self.provider, self.freeze = toy.provider, Path(toy.freeze)

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def send(self, request: Send) -> Struct:
        """The provider takes it, or says that it did not, or breaks off."""
        status = await self._post("send", request)
        if status != 200:
            raise NotSent(f"HTTP {status}")
        return Sent(enrollment_id=request.enrollment_id)

    async def ask(self, request: Send) -> Struct | None:
        """Whether it ever took it."""
        status = await self._post("ask", request)
        if self.freeze.is_file():
            self.freeze.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        return Sent(enrollment_id=request.enrollment_id) if status == 200 else None

    async def _post(self, what: str, request: Send) -> int:
        try:
            async with self._http.post(f"http://{self.provider}/{what}/{request.enrollment_id}") as response:
                status: int = response.status
                return status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unknown(f"{type(error).__name__}") from error


def main() -> None:
    """Run as every service does, with a protection taken out if the test asks for it."""
    toy = msgspec.json.decode(Path(os.environ["CANBAO_TOY"]).read_bytes(), type=Toy)
    planted.plant(toy.plant)

    def gateways(_settings: Settings, _keys: Keyring) -> dict[type[Struct], Gateway]:
        gateway: Any = Outside(toy)
        return {Send: gateway}

    Service("billing", subscriptions(toy), gateways=gateways).run()


if __name__ == "__main__":
    main()

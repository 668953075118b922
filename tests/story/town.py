"""How does a citizen act in a story, and what does she see of it? At channels, by SMS, on public topics."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer
from msgspec import Struct

from contracts.answers import Accepted
from contracts.billing import QueryBill
from contracts.enrollment import Identity, Registration, ReviewDecision, SubmitEnrollment
from contracts.message import CONTRACTS, PersonId, Sealed
from contracts.operations import AdvanceClock
from contracts.partners import PARTNERS
from contracts.payment import CartItem, ReportPayment, StartPayment
from contracts.topics import SERVICES
from sandbox.partner import Answer, Partner, published_topics, read_topics
from sandbox.stack import Stack
from sandbox.state import read_state
from services.chassis.keys import load_keyring
from tests import people

DEADLINE_SECONDS = 30.0
_LOOK_SECONDS = 0.05
Fact = TypeVar("Fact", bound=Struct)
Found = TypeVar("Found")


class Text(Struct, frozen=True):
    """An SMS, from the gateway's own book."""

    phone: str
    template: str
    text: str


class Town:
    """All that stands around the citizens. partners: by code. facts: everything published since we came."""

    def __init__(self, stack: Stack, doors: dict[str, str], skew: timedelta) -> None:
        self.stack, self.doors, self.skew = stack, doors, skew
        self.partners: dict[str, Partner] = {}
        self.facts: list[Struct] = []
        self.http: aiohttp.ClientSession
        self._numbers = count(1)

    @classmethod
    @asynccontextmanager
    async def entered(cls, folder: Path) -> AsyncIterator["Town"]:
        """The sandbox that runs over this folder, with every partner connected and every topic read."""
        stack, state = Stack.recall(folder), read_state(folder)
        assert state is not None
        async with AsyncExitStack() as exits:
            db = await asyncpg.connect(stack.database_url("auditor"), ssl="disable")
            skew = await db.fetchval("select skew from enrollment.clock")
            await db.close()
            town = cls(stack, {seen.name: seen.door for seen in state.processes}, skew)
            town.http = await exits.enter_async_context(aiohttp.ClientSession())
            for code in PARTNERS:
                keys = load_keyring(folder / "keys" / f"{code}.json")
                town.partners[code] = partner = Partner(code, stack.kafka(code), keys, town.now)
                await partner.start()
                exits.push_async_callback(partner.stop)
            consumer = await read_topics(stack.kafka("auditor"), published_topics(), from_start=False)
            exits.push_async_callback(consumer.stop)
            reading = asyncio.create_task(town._read(consumer))
            exits.push_async_callback(_ended, reading)
            yield town

    def now(self) -> datetime:
        """The business instant."""
        return datetime.now(UTC) + self.skew

    def request_id(self) -> str:
        """One that nobody has used."""
        return f"story-{next(self._numbers)}-{time.monotonic_ns()}"

    # What can be seen

    def said(self, kind: type[Fact], **fields: object) -> list[Fact]:
        """The facts of this kind with these values, in the order in which they came."""
        return [
            fact for fact in self.facts
            if isinstance(fact, kind) and all(getattr(fact, name) == value for name, value in fields.items())
        ]

    async def hears(self, kind: type[Fact], **fields: object) -> Fact:
        """The first such fact, as soon as it is there."""

        async def look() -> Fact | None:
            return next(iter(self.said(kind, **fields)), None)

        return await soon(look, f"{kind.__name__} {fields}")

    async def texts(self, phone: str) -> list[Text]:
        """Every SMS to this phone, in order."""
        async with self.http.get(f"http://{self.doors['sms']}/simulator/book") as response:
            book = [msgspec.json.decode(line, type=Text) for line in (await response.read()).splitlines()]
        return [text for text in book if text.phone == phone]

    async def callbacks(self, order_no: str) -> int:
        """How often the provider has called back about a paid order, by its own book."""
        async with self.http.get(f"http://{self.doors['wechat']}/simulator/book") as response:
            book = [msgspec.json.decode(line) for line in (await response.read()).splitlines()]
        return next(int(line["callbacks"]) for line in book if line["out_trade_no"] == order_no)

    # What can be done

    async def pays(self, order_no: str, behaviour: str = "ok", **more: object) -> None:
        """Somebody scans the code and pays at the provider; what else happens there, `behaviour` says."""
        wish = {"out_trade_no": order_no, "behaviour": behaviour, **more}
        async with self.http.post(f"http://{self.doors['wechat']}/simulator/pay", json=wish) as response:
            assert response.status == 200, await response.text()

    async def time_passes(self, span: timedelta) -> datetime:
        """The business clock of every service moves forward. Returns the instant that none of them is before
        now; ours is ahead of them by as long as they took to hear it.
        """
        to = self.now() + span
        orders = [
            AdvanceClock(request_id=self.request_id(), service=service, operator="story", to=to)
            for service in SERVICES
        ]
        answers = await asyncio.gather(*map(self.partners["operators"].ask, orders))
        assert all(isinstance(answer, Accepted) for answer in answers), answers
        self.skew += span
        return to

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        decoders = {
            name.encode(): msgspec.json.Decoder(contract.message)
            for name, contract in CONTRACTS.items() if contract.kind == "fact"
        }
        while True:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    decoder = decoders.get(dict(record.headers).get("ce_type") or b"")
                    if decoder is not None and record.value is not None:
                        self.facts.append(decoder.decode(record.value))


class Citizen:
    """Somebody who acts at one channel. person_id, enrollment_id: once they are given."""

    def __init__(self, town: Town, who: people.Citizen, at: str = "wechat") -> None:
        self.town, self.who, self.channel = town, who, town.partners[at]
        self.person_id = PersonId("")
        self.enrollment_id = ""

    async def registers(self) -> None:
        """An account, with what stands on the card."""
        request_id = self.town.request_id()
        sealed: Sealed[Registration] = self.channel.keys.seal(
            self.who.registration, reader="enrollment", place=request_id
        )
        granted = accepted(await self.channel.ask(self.who.registers(sealed, request_id=request_id)))
        self.person_id = PersonId(granted["person_id"])

    async def applies(self) -> None:
        """For this year; the agency sees it then."""
        wish = SubmitEnrollment(
            request_id=self.town.request_id(), person_id=self.person_id, region_code=people.REGION,
            scheme="RESIDENT", insurance_year=people.YEAR,
        )
        self.enrollment_id = accepted(await self.channel.ask(wish))["enrollment_id"]

    async def is_judged(self, decision: str, *reasons: str) -> None:
        """The agency decides: APPROVE, RETURN or REJECT."""
        agency = self.town.partners[people.AGENCY]
        accepted(await agency.ask(
            ReviewDecision(
                request_id=self.town.request_id(), person_id=self.person_id, enrollment_id=self.enrollment_id,
                decision=decision, officer="officer-7", decided_at=self.town.now(), reasons=list(reasons),
            )
        ))

    async def is_approved(self) -> None:
        """Registered, applied for and approved."""
        await self.registers()
        await self.applies()
        await self.is_judged("APPROVE")

    async def bill(self, status: str = "ISSUED") -> dict[str, Any]:
        """What she owes, once it stands so. Asked at billing's door."""

        async def look() -> dict[str, Any] | None:
            wish = QueryBill(
                request_id=self.town.request_id(), person_id=self.person_id, insurance_year=people.YEAR
            )
            answer = await self.channel.ask_http(self.town.http, self.town.doors["billing"], wish)
            shown = answer.result if isinstance(answer, Accepted) else None
            return shown if shown and shown["status"] == status else None

        return await soon(look, f"a bill that is {status}")

    async def orders(self, bill: dict[str, Any]) -> str:
        """A code to scan: the order's number. Asked again while payment has not read the bill."""
        item = CartItem(
            person_id=self.person_id, obligation_id=bill["obligation_id"], version=bill["version"],
            amount_fen=bill["due_fen"],
        )

        async def ask() -> dict[str, Any] | None:
            wish = StartPayment(
                request_id=self.town.request_id(), person_id=self.person_id, provider="wechat", items=[item]
            )
            answer = await self.channel.ask(wish)
            if not isinstance(answer, Accepted):
                assert answer.refusal.retryable, answer
                return None
            return answer.result

        order_no: str = (await soon(ask, "an order"))["order_no"]
        return order_no

    def paid_at(self, bank: str, bill: dict[str, Any], fen: int = 0) -> ReportPayment:
        """What a bank or counter says when she has paid there. fen: 0 is what the bill says."""
        reference = self.town.request_id()
        return ReportPayment(
            request_id=reference, person_id=self.person_id, obligation_id=bill["obligation_id"],
            insurance_year=people.YEAR, amount_fen=fen or bill["due_fen"], channel_ref=reference,
            paid_at=self.town.now(), method="CARD",
            payer_saw=self.town.partners[bank].keys.seal(
                Identity(name=self.who.name, id_number=self.who.id_number), reader="payment", place=reference
            ),
        )

    async def is_told(self, *templates: str) -> list[Text]:
        """Her SMS, once these and no others have come, in whatever order."""

        async def look() -> list[Text] | None:
            texts = await self.town.texts(self.who.phone)
            return texts if len(texts) >= len(templates) else None

        texts = await soon(look, f"SMS {templates}")
        assert sorted(text.template for text in texts) == sorted(templates)
        return texts


def accepted(answer: Answer) -> dict[str, Any]:
    """The result of an answer that must not be a refusal."""
    assert isinstance(answer, Accepted), answer
    return answer.result


async def soon(look: Callable[[], Awaitable[Found | None]], what: str) -> Found:
    """What is looked for, as soon as it is there. AssertionError when the time is over."""
    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        if (found := await look()) is not None:
            return found
        assert time.monotonic() < end, f"waited {DEADLINE_SECONDS:.0f} s for {what}"
        await asyncio.sleep(_LOOK_SECONDS)


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

"""What may an operator order? Redrive, resume, say again, read again, move the sandbox's clock; signed,
answered, and said on the topic.
"""

import asyncio
from datetime import datetime
from typing import Any

import asyncpg
from aiokafka import TopicPartition
from msgspec import Struct
from typing_extensions import override

from contracts.operations import OPERATORS as OPERATORS_TOPIC
from contracts.operations import (
    AdvanceClock,
    MessageRedriven,
    Redrive,
    Republish,
    Reread,
    Resume,
    ServiceResumed,
)
from contracts.reasons import Reason, Refused, refused
from contracts.topics import TOPICS
from services.chassis.arrival import RequestKey
from services.chassis.database import is_broken, while_beating
from services.chassis.lag import Runs
from services.chassis.lane import Lane
from services.chassis.progress import Place, set_back
from services.chassis.relay import send_again
from services.chassis.subscriptions import Batch, Subscriptions
from services.chassis.telemetry import log
from services.chassis.timers import Timers
from services.chassis.transaction import Transaction

MOST_WHYS = 20      # of the rows that stayed, named in the answer
_OF_REASON = "select seq from parked where reason = $1 and state in ('PARKED', 'QUARANTINED') order by seq"
_THERE = "select seq from parked where seq = any($1::bigint[])"
_READ = "select distinct topic, partition from progress where lane <> $1 order by 1, 2"
_KNOWN = "select exists (select from request where partner = $1 and request_id = $2)"


class Operators(Lane):
    """The lane of the topic `operators`. It never halts, and does the work before the transaction that
    answers.

    A crash in between does the work again: each order may be done twice without harm.
    """

    deadline_seconds = 300.0     # a clock that moves over a year runs a year's timers

    def __init__(self, *, orders: "Orders", timers: Timers, sandbox: bool, **lane: Any) -> None:
        super().__init__(name="operators", topics=[OPERATORS_TOPIC], **lane)
        self.orders, self.timers, self.sandbox = orders, timers, sandbox

    @override
    async def _work(self, runs: Runs) -> int | None:
        orders = [order for run in runs.values() for order in self.reader.records(run)[0]]
        for order in orders:
            if order.refusal is not None or order.request is None or self.db is None:
                continue
            # what came before is not done again: the engine says what it said then
            if not await self.db.fetchval(_KNOWN, *order.request):
                self.orders.results[order.request] = await self._result(self.db, order.message)
        return await super()._work(runs)

    async def _result(self, db: asyncpg.Connection, order: Any) -> dict[str, Any] | Refused:
        """What came of an order; one that fails is refused, for the next one may be the resume."""
        try:
            async with asyncio.timeout(self.deadline_seconds):
                return await self._do(db, order)
        except Exception as error:
            if is_broken(error) or db.is_closed():
                raise
            log.error(
                "order_failed", order=type(order).__name__, error=f"{type(error).__name__}: {error}"[:300]
            )
            return refused(Reason.UNDER_REPAIR, rule=f"the order failed: {type(error).__name__}")

    async def _do(self, db: asyncpg.Connection, order: Any) -> dict[str, Any] | Refused:
        if isinstance(order, Resume):
            gone = await db.execute("delete from halt")
            await self.timers.engine.halt.read(db)
            return {"was_halted": gone != "DELETE 0"}
        if isinstance(order, Republish):
            return {"batches": await send_again(db, order.since)}
        if isinstance(order, Reread):
            return {"partitions": await self._reread(db, order.since)}
        if isinstance(order, AdvanceClock):
            if not self.sandbox:
                return refused(Reason.NOT_PERMITTED, field="to", rule="only a sandbox's clock moves")
            if self.timers.engine.halt.declared:
                # a halted service runs no timers; its resume comes behind
                return refused(Reason.UNDER_REPAIR, field="to", rule="a halted service runs no timers")
            # not `to`, if that lies behind: the clock never goes back
            return {"now": (await self.timers.advance(db, order.to)).isoformat()}
        return await self._redrive(db, order)

    async def _reread(self, db: asyncpg.Connection, since: datetime) -> int:
        """Set all other lanes back; how many partitions were beyond it. Orders are not read again: this one
        would never end.
        """
        rows = await db.fetch(_READ, self.name)
        partitions = [TopicPartition(*row) for row in rows if row[0] in TOPICS]
        return await set_back(db, await while_beating(db, self._begins(partitions, since)))

    async def _begins(self, partitions: list[TopicPartition], since: datetime) -> dict[Place, int]:
        """Their first records since then; their ends, where nothing has come. The ends first: what comes in
        between is read.
        """
        consumer, at = self.sub.consumer, int(since.timestamp() * 1000)
        ends = await consumer.end_offsets(partitions)
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, at))
        return {(p.topic, p.partition): found[p].offset if found[p] else ends[p] for p in partitions}

    async def _redrive(self, db: asyncpg.Connection, order: Redrive) -> dict[str, Any] | Refused:
        if order.reason not in Reason.__members__:
            return refused(Reason.SCHEMA_INVALID, field="reason", expected="a code of contracts/reasons.py")
        wanted = order.seqs or [row[0] for row in await db.fetch(_OF_REASON, order.reason)]
        there = {row[0] for row in await db.fetch(_THERE, wanted)}
        whys = dict.fromkeys(set(wanted) - there, "no such row")
        if not order.dry_run:
            whys |= await self.timers.engine.redrive(db, sorted(there))
        left = {row[0] for row in await db.fetch(_THERE, wanted)}
        told = dict(sorted(whys.items())[:MOST_WHYS])
        return {
            "redriven": sorted(there - left),
            "left": len(left),
            "why": {str(s): w.rstrip(" :") for s, w in told.items()},   # there may be no more to say
        }


class Orders:
    """The operators' commands as every service takes them. results: of the work that is done; what is left
    is to answer.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self.results: dict[RequestKey, dict[str, Any] | Refused] = {}
        self.on = Subscriptions(service)
        self.on(Redrive, refs=lambda order: [])(self.redrive)
        self.on(Resume, refs=lambda order: [])(self.resume)
        self.on(Republish, refs=lambda order: [])(self.republish)
        self.on(Reread, refs=lambda order: [])(self.reread)
        self.on(AdvanceClock, refs=lambda order: [])(self.advance_clock)

    def _take(self, tx: Transaction, order: Struct, nothing: dict[str, Any]) -> dict[str, Any] | None:
        """What was done; None: the order is refused. nothing: what to say when it was done before a restart.
        """
        result = self.results.pop(tx.request(order), nothing)
        if isinstance(result, Refused):
            tx.refuse(order, result)
            return None
        return result

    async def redrive(self, orders: Batch[Redrive], tx: Transaction) -> None:
        """Answer, and say which came through."""
        for order in orders:
            if (result := self._take(tx, order, {"redriven": [], "left": 0, "why": {}})) is None:
                continue
            for seq in result["redriven"]:
                tx.publish(
                    MessageRedriven(
                        service=self.service, parked_id=str(seq), operator=order.operator, at=tx.now
                    ),
                    sequence=2,
                )
            tx.accept(order, redriven=len(result["redriven"]), left=result["left"], why=result["why"])

    async def resume(self, orders: Batch[Resume], tx: Transaction) -> None:
        """Answer, and say that the service runs again."""
        for order in orders:
            if (result := self._take(tx, order, {"was_halted": False})) is None:
                continue
            if result["was_halted"]:
                tx.publish(
                    ServiceResumed(service=self.service, operator=order.operator, at=tx.now), sequence=2
                )
            tx.accept(order, **result)

    async def republish(self, orders: Batch[Republish], tx: Transaction) -> None:
        """Answer with how many batches go out again."""
        for order in orders:
            if (result := self._take(tx, order, {"batches": 0})) is not None:
                tx.accept(order, **result)

    async def reread(self, orders: Batch[Reread], tx: Transaction) -> None:
        """Answer with how many partitions are read again."""
        for order in orders:
            if (result := self._take(tx, order, {"partitions": 0})) is not None:
                tx.accept(order, **result)

    async def advance_clock(self, orders: Batch[AdvanceClock], tx: Transaction) -> None:
        """Answer with the instant that the service has reached."""
        for order in orders:
            if (result := self._take(tx, order, {"now": tx.now.isoformat()})) is not None:
                tx.accept(order, **result)

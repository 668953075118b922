"""What may an operator order? Redrive, resume, move the sandbox's clock; signed, answered, and said on the
topic.
"""

from typing import Any

import asyncpg
from typing_extensions import override

from contracts.operations import OPERATORS as OPERATORS_TOPIC
from contracts.operations import AdvanceClock, MessageRedriven, Redrive, Republish, Resume, ServiceResumed
from contracts.reasons import Reason
from services.chassis.arrival import Arrival, RequestKey
from services.chassis.lane import Lane, Runs
from services.chassis.subscriptions import Batch, Subscriptions
from services.chassis.timers import Timers
from services.chassis.transaction import Transaction


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
        orders = [what for run in runs.values() for r in run if isinstance(what := self.read(r), Arrival)]
        for order in orders:
            if order.refusal is None and order.request is not None and self.db is not None:
                self.orders.results[order.request] = await self._do(self.db, order.message)
        return await super()._work(runs)

    async def _do(self, db: asyncpg.Connection, order: Any) -> dict[str, Any]:
        if isinstance(order, Resume):
            gone = await db.execute("delete from halt")
            await self.timers.engine.halt.read(db)
            return {"was_halted": gone != "DELETE 0"}
        if isinstance(order, Republish):
            again = await db.execute(
                "insert into unsent(batch_id, at) select distinct batch_id, at from outbox where at >= $1"
                " on conflict do nothing",
                order.since,
            )
            return {"batches": int(again.rpartition(" ")[2])}
        if isinstance(order, AdvanceClock):
            if not self.sandbox:
                return {"refused": Reason.NOT_PERMITTED}
            if self.timers.engine.halt.declared:
                # a halted service runs no timers; its resume comes behind
                return {"refused": Reason.UNDER_REPAIR}
            await self.timers.advance(db, order.to)
            return {"now": order.to.isoformat()}
        seqs = order.seqs or [
            row[0]
            for row in await db.fetch(
                "select seq from parked where reason = $1 and state in ('PARKED', 'REFUSED') order by seq",
                order.reason,
            )
        ]
        if not order.dry_run:
            await self.timers.engine.redrive(db, seqs)
        left = {
            row[0] for row in await db.fetch("select seq from parked where seq = any($1::bigint[])", seqs)
        }
        return {"redriven": [seq for seq in seqs if seq not in left], "left": len(left)}


class Orders:
    """The operators' commands as every service takes them. results: of the work that is done; what is left
    is to answer.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self.results: dict[RequestKey, dict[str, Any]] = {}
        self.on = Subscriptions(service)
        self.on(Redrive, refs=lambda order: [])(self.redrive)
        self.on(Resume, refs=lambda order: [])(self.resume)
        self.on(Republish, refs=lambda order: [])(self.republish)
        self.on(AdvanceClock, refs=lambda order: [])(self.advance_clock)

    async def redrive(self, orders: Batch[Redrive], tx: Transaction) -> None:
        """Answer, and say which came through."""
        for order in orders:
            result = self.results.pop(tx.request(order), {"redriven": [], "left": 0})
            for seq in result["redriven"]:
                tx.publish(
                    MessageRedriven(
                        service=self.service, parked_id=str(seq), operator=order.operator, at=tx.now
                    ),
                    sequence=2,
                )
            tx.accept(order, redriven=len(result["redriven"]), left=result["left"])

    async def resume(self, orders: Batch[Resume], tx: Transaction) -> None:
        """Answer, and say that the service runs again."""
        for order in orders:
            result = self.results.pop(tx.request(order), {"was_halted": False})
            if result["was_halted"]:
                tx.publish(
                    ServiceResumed(service=self.service, operator=order.operator, at=tx.now), sequence=2
                )
            tx.accept(order, **result)

    async def republish(self, orders: Batch[Republish], tx: Transaction) -> None:
        """Answer with how many batches go out again."""
        for order in orders:
            tx.accept(order, **self.results.pop(tx.request(order), {"batches": 0}))

    async def advance_clock(self, orders: Batch[AdvanceClock], tx: Transaction) -> None:
        """Answer with the instant that the service has reached."""
        for order in orders:
            result = self.results.pop(tx.request(order), {"now": tx.now.isoformat()})
            if "refused" in result:
                tx.refuse(
                    order, result["refused"], field="to", rule="the clock of a sandbox that is not halted"
                )
            else:
                tx.accept(order, **result)

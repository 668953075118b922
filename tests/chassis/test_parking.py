"""Does what is kept come back once, in order, and only when it may?"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from msgspec.json import encode
from typing_extensions import override

from contracts.billing import QueryBill
from contracts.enrollment import EnrollmentApproved
from contracts.reasons import Reason
from services.chassis import batch, parking
from services.chassis.arrival import Unreadable
from services.chassis.halt import Halted
from services.chassis.ids import partition_of, uuid7
from services.chassis.subscriptions import Batch, Subscriptions
from services.chassis.timers import Timers
from services.chassis.transaction import Transaction
from tests.chassis.running import until
from tests.chassis.toys import Remind, Toy, approved, person, settled, toy, waived
from tests.ground import Database


async def kept(made: Toy) -> list[str]:
    """The states of what is parked, oldest first."""
    return [state for (state,) in await made.rows("select state from parked order by seq")]


async def seq_of(made: Toy, state: str) -> int:
    ((seq,),) = await made.rows("select seq from parked where state = $1", state)
    assert isinstance(seq, int)
    return seq


async def test_a_redrive_ends_though_what_blocks_it_shares_no_row_with_it(database: Database) -> None:
    async with toy(database) as made:
        who = uuid7()
        first, second = approved(person_id=who), approved(person_id=who)
        made.poisoned = {first.enrollment_id}
        await made.run(made.arrived(first), made.arrived(second))
        # as if its refs had been fewer when it was parked: a later one blocks it, unknown to its row
        await made.db.execute("delete from parked_ref where state = 'PARKED' and ref = $1", person(who))
        made.poisoned = set()

        async with asyncio.timeout(10):
            await made.engine.redrive(made.db, [await seq_of(made, "PARKED")])

        assert await kept(made) == ["PARKED", "BEHIND"]


async def test_a_redrive_of_what_never_ends_ends_and_says_why(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with toy(database) as made:
        endless, sound = approved(), approved()
        made.poisoned = {endless.enrollment_id, sound.enrollment_id}
        await made.run(made.arrived(endless), made.arrived(sound))
        made.poisoned, made.endless = set(), {endless.enrollment_id}
        seqs = [seq for (seq,) in await made.rows("select seq from parked order by seq")]
        monkeypatch.setattr(batch, "ATTEMPT_SECONDS", 0.5)

        async with asyncio.timeout(10):
            whys = await made.engine.redrive(made.db, seqs)

        assert whys == {seqs[0]: "failed again: TimeoutError: "}
        assert await kept(made) == ["PARKED"]
        assert await made.said() == [sound.enrollment_id]


async def test_a_redrive_that_outlasts_its_time_tells_what_came_through_and_what_was_not_tried(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with toy(database) as made:
        facts = [approved() for _ in range(3)]
        sound, endless, late = (fact.enrollment_id for fact in facts)
        made.poisoned = {sound, endless, late}
        await made.run(*map(made.arrived, facts))
        made.poisoned, made.endless = set(), {endless}
        seqs = [seq for (seq,) in await made.rows("select seq from parked order by seq")]
        monkeypatch.setattr(batch, "ATTEMPT_SECONDS", 0.5)
        monkeypatch.setattr(batch, "REDRIVE_SECONDS", 0.3)

        whys = await made.engine.redrive(made.db, seqs)

        assert whys == {
            seqs[1]: "failed again: TimeoutError: ", seqs[2]: "not tried, the time was up: order it again",
        }
        assert await made.said() == [sound]


async def test_a_fact_set_aside_unread_is_handled_once_and_then_known(database: Database) -> None:
    async with toy(database) as made:
        fact = made.arrived(approved())
        await made.run(unreadable=[Unreadable(fact.raw, Reason.SCHEMA_INVALID, "", fact.type)])
        assert await kept(made) == ["QUARANTINED"]

        await made.engine.redrive(made.db, [await seq_of(made, "QUARANTINED")])
        await made.run(fact)

        assert await kept(made) == []
        assert await made.said() == [fact.message.enrollment_id]


async def test_a_fact_set_aside_unread_that_was_handled_meanwhile_has_no_second_effect(
    database: Database,
) -> None:
    async with toy(database) as made:
        fact = made.arrived(approved())
        await made.run(unreadable=[Unreadable(fact.raw, Reason.SCHEMA_INVALID, "", fact.type)])
        await made.run(fact)

        await made.engine.redrive(made.db, [await seq_of(made, "QUARANTINED")])

        assert await kept(made) == []
        assert await made.said() == [fact.message.enrollment_id]


async def test_the_time_that_a_message_was_parked_does_not_count_as_waiting(database: Database) -> None:
    async with toy(database) as made:
        ground = approved()
        made.poisoned = {ground.enrollment_id}
        await made.run(made.arrived(ground), made.arrived(settled(approved())))
        await made.db.execute("update parked set first_at = now() - interval '1 day'")

        tx = Transaction("billing", made.db, made.keys)
        seqs = [await seq_of(made, "PARKED"), await seq_of(made, "AWAITS")]
        failed, waits = await parking.read_rows(tx, seqs, made.reader)

        assert failed.waited == timedelta()
        assert waits.waited >= timedelta(days=1)


async def test_a_timer_that_fails_at_two_members_at_once_is_parked_once(database: Database) -> None:
    async with toy(database) as one, toy(database) as other:
        now, remind = datetime.now(UTC), encode(Remind(enrollment_id=uuid7(), poison=True))
        await one.db.execute(
            "insert into job(id, run_at, type, payload, journey) values ($1, $2, 'Remind', $3, null)",
            uuid7(),
            now,
            remind,
        )

        await asyncio.gather(*(Timers(member.engine).fire(member.db, now) for member in (one, other)))

        assert await kept(one) == ["PARKED"]
        assert await one.rows("select count(*) from job") == [(0,)]


async def test_what_is_said_goes_where_its_key_belongs_though_a_partner_put_it_elsewhere(
    database: Database,
) -> None:
    async with toy(database) as made:
        who = uuid7()
        ask = made.arrived(QueryBill(request_id="r-1", person_id=who, insurance_year=2025))
        ask.raw = ask.raw._replace(partition=(partition_of(who) + 1) % 4)

        await made.run(made.arrived(approved(person_id=who)), ask)

        facts = await made.rows("select part from outbox where type = 'billing.bill_waived.v1'")
        assert facts == [(partition_of(who),)]


async def test_a_halt_that_could_not_be_said_is_said_with_the_next_failure(database: Database) -> None:
    async with toy(database) as made, database.connect() as admin:
        facts = [approved() for _ in range(22)]
        made.poisoned = {fact.enrollment_id for fact in facts}
        await admin.execute("revoke insert on billing.halt from billing")
        try:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await made.run(*map(made.arrived, facts[:21]))
        finally:
            await admin.execute("grant insert on billing.halt to billing")
        assert await made.said("any.service_halted.v1") == []

        with pytest.raises(Halted):
            await made.run(made.arrived(facts[21]))

        assert await made.rows("select count(*) from halt") == [(1,)]
        assert await made.said("any.service_halted.v1") == ["billing"]


async def test_what_awaits_its_ground_is_left_alone_while_the_service_is_halted(database: Database) -> None:
    async with toy(database) as made:
        ground = approved()
        await made.run(made.arrived(settled(ground)))
        await made.db.execute("update parked set at = now() - interval '1 hour'")
        made.grounds = {ground.enrollment_id}
        timers = Timers(made.engine)

        made.halt.declared = True
        await timers.sweep(made.db)
        assert await kept(made) == ["AWAITS"]

        made.halt.declared = False
        await timers.sweep(made.db)
        assert await kept(made) == []


class Counter(Toy):
    """Answers a question only when there is a bill, and bills whoever is approved."""

    @override
    def _subscriptions(self) -> Subscriptions:
        on = Subscriptions("billing")

        @on(EnrollmentApproved, refs=lambda f: [person(f.person_id)], lane="money")
        async def bill(facts: Batch[EnrollmentApproved], tx: Transaction) -> None:
            for fact in facts:
                if fact.enrollment_id in self.poisoned:
                    raise self.poison
                self.grounds.add(fact.person_id)
                tx.publish(waived(fact.enrollment_id, fact.person_id, tx.now), sequence=1)

        @on(QueryBill, refs=lambda c: [person(c.person_id)])
        async def query(commands: Batch[QueryBill], tx: Transaction) -> None:
            for command in commands:
                if command.person_id in self.grounds:
                    tx.accept(command, due=True)
                else:
                    tx.wait(command, person(command.person_id))

        return on


async def test_a_command_that_waits_for_a_bill_does_not_pass_it_when_the_bill_is_parked(
    database: Database,
) -> None:
    async with toy(database, Counter) as made:
        who = uuid7()
        bill = approved(person_id=who)
        await made.run(made.arrived(QueryBill(request_id="r-1", person_id=who, insurance_year=2025)))
        assert await kept(made) == ["AWAITS"]
        made.poisoned = {bill.enrollment_id}
        await made.run(made.arrived(bill))

        made.grounds = {who}      # whatever it would find now, it is not its turn
        await made.engine.wake(made.db, [await seq_of(made, "AWAITS")])
        assert sorted(await kept(made)) == ["BEHIND", "PARKED"]
        assert await answers(made) == []

        made.poisoned = set()
        await made.engine.redrive(made.db, [await seq_of(made, "PARKED")])
        assert await answers(made) == ["r-1"]
        assert await kept(made) == []


async def answers(made: Toy) -> list[Any]:
    return await made.said("answer.accepted.v1")


async def test_what_awaits_stays_though_a_topic_made_anew_has_another_record_at_its_place(
    database: Database,
) -> None:
    async with toy(database) as made:
        who = uuid7()
        first, second = approved(person_id=who), approved(person_id=who)

        await made.run(made.arrived(settled(first), offset=7))
        await made.run(made.arrived(settled(second), offset=7))
        assert await kept(made) == ["AWAITS", "AWAITS"]

        made.grounds = {first.enrollment_id, second.enrollment_id}
        await made.run(made.arrived(first), made.arrived(second))
        assert await made.rows("select count(*) from outbox where seq = 2") == [(2,)]


def in_ms(ahead: int) -> str:
    """A uuid7 of an instant to come."""
    born = f"{time.time_ns() // 1_000_000 + ahead:012x}"
    return f"{born[:8]}-{born[8:]}-{uuid7()[14:]}"


async def test_a_fact_from_the_future_can_be_redriven_when_its_time_has_come(database: Database) -> None:
    async with toy(database) as made:
        known = made.arrived(approved())
        headers = (("ce_id", in_ms(ahead=302_000).encode()), *known.raw.headers[1:])
        early = made.reader.read(known.raw._replace(headers=headers))
        assert isinstance(early, Unreadable)
        assert early.reason is Reason.ID_FROM_FUTURE
        await made.run(unreadable=[early])

        async def comes() -> bool:
            await made.engine.redrive(made.db, [seq for (seq,) in await made.rows("select seq from parked")])
            return await made.said() == [known.message.enrollment_id]

        await until(comes)


async def test_age_is_judged_by_the_instant_that_the_broker_took_it(database: Database) -> None:
    async with toy(database) as made:
        known = made.arrived(approved())
        raw = known.raw._replace(at_ms=known.raw.at_ms - 86_400_000)
        await made.run(unreadable=[Unreadable(raw, Reason.SCHEMA_INVALID, "", known.type)])

        tx = Transaction("billing", made.db, made.keys)
        (again,) = await parking.read_rows(tx, [await seq_of(made, "QUARANTINED")], made.reader)

        assert again.raw.at_ms == raw.at_ms


async def test_what_waits_behind_a_row_that_nobody_can_read_does_not_pass_it(database: Database) -> None:
    async with toy(database) as made:
        who = uuid7()
        first, second = approved(person_id=who), approved(person_id=who)
        made.poisoned = {first.enrollment_id}
        await made.run(made.arrived(first), made.arrived(second))
        made.poisoned = set()
        await made.db.execute("update parked set value = 'cut' where state = 'PARKED'")
        unread, behind = await seq_of(made, "PARKED"), await seq_of(made, "BEHIND")

        whys = await made.engine.redrive(made.db, [unread, behind])

        assert await kept(made) == ["PARKED", "BEHIND"]
        assert await made.said() == []
        assert [why.split(":")[0] for why in whys.values()] == [f"row {unread}"] * 2
        assert "SCHEMA_INVALID" in whys[unread]


async def test_an_event_in_structured_mode_is_kept_as_it_came(database: Database) -> None:
    async with toy(database) as made:
        fact = approved()
        event = {"type": "enrollment.enrollment_approved.v1", "id": "no id", "data": fact}
        head = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
        raw = made.arrived(fact).raw._replace(headers=head, value=encode(event))

        what = made.reader.read(raw)

        assert isinstance(what, Unreadable)
        assert what.raw == raw      # its signature covers these bytes, not those inside

"""What does payment do with money at a counter, and what would the database never let it do?"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
from msgspec.structs import replace

from contracts.answers import Accepted
from contracts.enrollment import Identity
from contracts.payment import PaymentSettled
from services.chassis.ids import uuid7
from services.payment import store
from tests.ground import Database
from tests.payment.scene import (
    PAID_AT,
    assert_books_balance,
    bill,
    callback,
    ordered,
    recorded,
    reported,
    status_of,
    suspended,
)
from tests.people import LI_NA, WANG_JUN
from tests.world import World, reason_of, world_of


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """Payment at noon; each test ends with books that balance and money that is all accounted for."""
    async with world_of("payment", database) as world:
        yield world
        await assert_books_balance(world)


async def test_a_counters_money_settles_the_bill_in_one_go(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA))

    await world.when(reported(world, LI_NA), by="bank")

    (answer,) = world.answers
    assert isinstance(answer, Accepted)
    (fact,) = [fact for fact in world.published if isinstance(fact, PaymentSettled)]
    assert (fact.channel_code, fact.channel_ref, fact.paid_at) == ("bank", "bank-1", PAID_AT)
    assert answer.result == {"order_id": fact.order_id, "status": "SETTLED", "reason": ""}


async def test_a_report_under_another_request_id_hears_the_first_answer(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA))
    await world.when(reported(world, LI_NA), by="bank")
    (first,) = world.answers

    await world.when(reported(world, LI_NA, request_id="again"), by="bank")

    (second,) = world.answers
    assert isinstance(first, Accepted)
    assert isinstance(second, Accepted)
    assert first.result == second.result
    assert world.published == []


async def test_two_reports_of_one_payment_in_one_batch_count_once(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA))

    await world.when(reported(world, LI_NA), reported(world, LI_NA, request_id="again"), by="bank")

    assert len(world.answers) == 2
    assert len(world.published) == 1


async def test_one_number_for_two_people_in_one_batch_counts_once(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA), bill(WANG_JUN), recorded(WANG_JUN))

    await world.when(reported(world, LI_NA), reported(world, WANG_JUN, request_id="another"), by="bank")

    assert sorted(reason_of(answer) for answer in world.answers) == ["", "CHANNEL_REF_TAKEN"]


async def test_one_number_for_two_payments_is_refused(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA), bill(WANG_JUN), recorded(WANG_JUN))
    await world.when(reported(world, LI_NA), by="bank")

    await world.when(reported(world, WANG_JUN, request_id="another"), by="bank")

    assert [reason_of(answer) for answer in world.answers] == ["CHANNEL_REF_TAKEN"]
    assert await status_of(world, WANG_JUN) == ("DUE", False)


async def test_money_from_somebody_else_goes_to_suspense_with_its_reason(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA))
    wrong = world.seal(Identity(name="张三", id_number=LI_NA.id_number), by="bank", place="bank-1")

    await world.when(reported(world, LI_NA, payer_saw=wrong), by="bank")

    (answer,) = world.answers
    assert isinstance(answer, Accepted)
    assert answer.result == {"order_id": "", "status": "SUSPENSE", "reason": "PERSON_MISMATCH"}
    assert suspended(world) == [("PERSON_MISMATCH", 40_000)]
    assert await status_of(world, LI_NA) == ("DUE", False)


async def test_a_bank_that_overtakes_bill_and_person_waits_for_both(world: World) -> None:
    await world.when(reported(world, LI_NA), by="bank")
    assert (world.answers, await world.parked()) == ([], [("AWAITS", "AWAITS_GROUND")])

    await world.when(recorded(LI_NA))
    assert (world.answers, await world.parked()) == ([], [("AWAITS", "AWAITS_GROUND")])

    await world.when(bill(LI_NA))

    assert [reason_of(answer) for answer in world.answers] == [""]
    assert [type(fact) for fact in world.published] == [PaymentSettled]
    assert await world.parked() == []


async def test_money_for_a_bill_that_never_comes_stands_in_suspense_after_a_while(world: World) -> None:
    await world.when(recorded(LI_NA))
    await world.when(reported(world, LI_NA), by="bank")
    await world.db.execute("update parked set first_at = first_at - $1::interval", timedelta(minutes=10))

    await world.when(recorded(LI_NA))  # touches the person only: the report waits for the bill
    assert world.answers == []
    await world.engine.redrive(world.db, [await world.db.fetchval("select seq from parked")])
    await world.listen()

    assert suspended(world) == [("BILL_NOT_FOUND", 40_000)]
    assert [reason_of(answer) for answer in world.answers] == [""]


async def test_counter_and_provider_at_the_same_instant_settle_once(world: World, database: Database) -> None:
    for _ in range(5):
        citizen = replace(LI_NA, number=int(uuid7()[-6:], 16))
        await world.when(bill(citizen), recorded(citizen))
        order = await ordered(world, citizen, request_id=uuid7())
        async with world_of("payment", database) as bank:
            report = reported(bank, citizen, ref=uuid7())
            both = bank.when(report, by="bank"), world.tell(callback(order, transaction=uuid7()))
            await asyncio.gather(*both)

        settled = await world.db.fetch(
            "select from order_item where obligation_id = $1 and status = 'SETTLED'", citizen.obligation_id
        )
        assert len(settled) == 1
        assert (
            len(await world.kept(store.FUNDS, reason="PAID_TWICE", obligation_id=citizen.obligation_id)) == 1
        )


# The database's last line


async def test_an_entry_that_does_not_balance_cannot_be_written(world: World) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="two legs"):
        await world.db.execute(
            "insert into ledger(entry_id, leg, account, amount_fen, posted_at) values"
            " (gen_random_uuid(), 1, 1002, 5, now())"
        )


async def test_the_books_cannot_be_changed_afterwards(world: World) -> None:
    for statement in (
        "update ledger set amount_fen = 1",
        "delete from ledger",
        "update receipt set reason = ''",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await world.db.execute(statement)


async def test_an_obligation_cannot_be_settled_twice(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA))
    await world.when(reported(world, LI_NA), by="bank")

    with pytest.raises(asyncpg.UniqueViolationError):
        await world.db.execute(
            "insert into order_item select gen_random_uuid(), item, person_id, obligation_id, version,"
            " amount_fen, status from order_item"
        )

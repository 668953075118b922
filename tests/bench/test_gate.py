"""Is a figure refused when a round did not do what it claims?"""

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord

from bench import gate, replay
from contracts.billing import BILLS
from sandbox.stack import Stack
from tests.ground import Database

ROUND = 100
BEFORE = dict.fromkeys([*gate.GROWS, "sum of the ledger, fen", "messages parked by payment"], 7)
SOUND = {name: count + gate.GROWS.get(name, 0) * ROUND for name, count in BEFORE.items()}


def test_a_sound_round_passes() -> None:
    assert gate.faults(BEFORE, SOUND, ROUND) == []


@pytest.mark.parametrize(
    ("what", "by"),
    [
        ("enrollments approved", -1),
        ("coverages active", -1),
        ("bills settled", -1),
        ("receipts", 1),
        ("ledger legs", -1),
        ("sum of the ledger, fen", 1),
        ("notification intents", 1),
        ("messages parked by payment", 1),
        ("facts handled once by notify", -1),
        (BILLS, 1),
        (gate.BANK.replies, -1),
    ],
)
def test_one_too_few_or_too_many_of_anything_is_a_fault(what: str, by: int) -> None:
    broken = SOUND | {what: SOUND[what] + by}

    assert [line.split(":")[0] for line in gate.faults(BEFORE, broken, ROUND)] == [what]


def test_what_was_not_counted_is_a_fault() -> None:
    counted = {name: count for name, count in SOUND.items() if name != "bills settled"}

    assert gate.faults(BEFORE, counted, ROUND) == ["bills settled: not counted"]


async def test_the_counts_see_what_is_broken_in_the_database(database: Database, broker: Stack) -> None:
    kafka = AIOKafkaConsumer(bootstrap_servers=broker.kafka_admin)
    await kafka.start()
    try:
        async with database.connect() as db:
            before = await gate.count(db, kafka, "")
            assert before.keys() >= gate.GROWS.keys()
            await db.execute(
                "set session_replication_role = replica"
            )  # the ledger's trigger would not let us
            await db.execute(
                "insert into payment.ledger values"
                " ('0190a000-0000-7000-8000-000000000001', 1, 1002, 40000, null, now())"
            )
            await db.execute(
                "insert into notify.parked(state, reason, digest, recorded_ms)"
                " values ('PARKED', 'HANDLER_FAILED', '', 0)"
            )
            wrong = gate.faults(before, await gate.count(db, kafka, ""), 0)
    finally:
        await kafka.stop()

    assert wrong == [
        "ledger legs: 1, expected 0",
        "sum of the ledger, fen: 40000, expected 0",
        "ledger entries out of balance: 1, expected 0",
        "messages parked by notify: 1, expected 0",
    ]


def test_who_was_killed_may_have_sent_more_but_never_less() -> None:
    more, less = SOUND | {BILLS: SOUND[BILLS] + 3}, SOUND | {BILLS: SOUND[BILLS] - 1}

    assert gate.faults(BEFORE, more, ROUND, repeated=gate.TOPICS) == []
    assert gate.faults(BEFORE, less, ROUND, repeated=gate.TOPICS) == [f"{BILLS}: 199, expected 200"]


def test_of_a_hundred_messages_five_go_out_again_in_order_and_one_after_the_newest_first() -> None:
    said = [ConsumerRecord(BILLS, 1, n, 0, 0, b"%d" % n, b"", 0, 0, 0, ()) for n in range(200)]

    assert [int(again.key) for again in replay.chosen(said)] == [*range(0, 200, 20), 199, 99]

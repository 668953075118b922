"""Did a round do what it claims? Rows and records counted before and after; without this no figure is
printed.
"""

from collections.abc import Collection, Mapping

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from contracts.billing import BILLS
from contracts.enrollment import COVERAGES, ENROLLMENTS
from contracts.partners import PARTNERS
from contracts.payment import PAYMENTS
from contracts.topics import PARTITIONS, SERVICES
from sandbox.people import REGION

BANK, AGENCY = PARTNERS["bank"], PARTNERS[REGION]

# How much each count grows with one business transaction. Everything that is not named here may not grow at
# all.
GROWS = {
    "enrollments approved": 1,
    "coverages active": 1,
    "bills settled": 1,
    "obligations settled": 1,
    "orders settled": 1,
    "order items settled": 1,
    "receipts": 1,
    "ledger legs": 2,
    "notification intents": 3,
    "calls to the SMS gateway waiting": 3,
    "commands answered by enrollment": 2,
    "commands answered by payment": 1,
    "facts handled once by enrollment": 1,
    "facts handled once by billing": 2,
    "facts handled once by payment": 2,
    "facts handled once by notify": 3,
    BANK.topic: 2,
    BANK.replies: 2,
    AGENCY.topic: 1,
    AGENCY.replies: 1,
    ENROLLMENTS: 2,
    COVERAGES: 1,
    BILLS: 2,
    PAYMENTS: 1,
}
TOPICS = tuple(name for name in GROWS if "." in name)

_COUNTS = {
    "enrollments approved": "select count(*) from {p}enrollment.enrollment where status = 'APPROVED'",
    "enrollments in any other state": "select count(*) from {p}enrollment.enrollment"
    " where status <> 'APPROVED'",
    "coverages active": "select count(*) from {p}enrollment.coverage where status = 'ACTIVE'",
    "coverages in any other state": "select count(*) from {p}enrollment.coverage where status <> 'ACTIVE'",
    "bills settled": "select count(*) from {p}billing.bill where status = 'SETTLED' and order_id is not null",
    "bills in any other state": "select count(*) from {p}billing.bill where status <> 'SETTLED'",
    "obligations settled": "select count(*) from {p}payment.obligation where status = 'SETTLED'",
    "obligations in any other state": "select count(*) from {p}payment.obligation where status <> 'SETTLED'",
    "orders settled": "select count(*) from {p}payment.orders where status = 'SETTLED'",
    "order items settled": "select count(*) from {p}payment.order_item where status = 'SETTLED'",
    "obligations paid twice": "select count(*) - count(distinct obligation_id) from {p}payment.order_item",
    "receipts": "select count(*) from {p}payment.receipt where reason = ''",
    "receipts that fit nothing": "select count(*) from {p}payment.receipt where reason <> ''",
    "ledger legs": "select count(*) from {p}payment.ledger",
    "sum of the ledger, fen": "select coalesce(sum(amount_fen), 0)::bigint from {p}payment.ledger",
    "ledger entries out of balance": "select count(*) from (select from {p}payment.ledger"
    " group by entry_id having sum(amount_fen) <> 0 or count(*) <> 2) e",
    "notification intents": "select count(*) from {p}notify.notification",
    "people told the same twice": "select count(*) - count(distinct (person_id, template))"
    " from {p}notify.notification",
    "calls to the SMS gateway waiting": "select count(*) from {p}notify.call"
    " where state = 'NEW' and attempts = 0",
    "commands answered by enrollment": "select count(*) from {p}enrollment.request where answer is not null",
    "commands answered by payment": "select count(*) from {p}payment.request where answer is not null",
    "commands without an answer": "select (select count(*) from {p}enrollment.request where answer is null)"
    " + (select count(*) from {p}payment.request where answer is null)",
    **{f"facts handled once by {s}": f"select count(*) from {{p}}{s}.inbox" for s in SERVICES},  # noqa: S608
    **{f"messages of {s} not sent": f"select count(*) from {{p}}{s}.unsent" for s in SERVICES},  # noqa: S608
}
_PARKED = {f"messages parked by {s}": f"select count(*) from {s}.parked" for s in SERVICES}  # noqa: S608
_HALTED = {f"halts of {s}": f"select count(*) from {s}.halt" for s in SERVICES}  # noqa: S608

Counts = Mapping[str, int]


async def count(db: asyncpg.Connection, kafka: AIOKafkaConsumer, prefix: str) -> dict[str, int]:
    """Everything that the gate looks at, now. prefix: "" for the services, "raw" for the raw loop."""
    schemas = f"{prefix}_" if prefix else ""
    queries = _COUNTS if prefix else _COUNTS | _PARKED | _HALTED
    counts = {name: int(await db.fetchval(query.format(p=schemas))) for name, query in queries.items()}
    topics = f"{prefix}." if prefix else ""
    places = {topic: [TopicPartition(topics + topic, n) for n in range(PARTITIONS)] for topic in TOPICS}
    ends = await kafka.end_offsets([place for some in places.values() for place in some])
    return counts | {topic: sum(ends[place] for place in some) for topic, some in places.items()}


def faults(
    before: Counts,
    after: Counts,
    transactions: int,
    grows: Counts = GROWS,
    *,
    repeated: Collection[str] = (),
) -> list[str]:
    """What is wrong with a round of so many business transactions, one line each; empty: its figures may be
    shown. repeated: what may have grown by more.
    """
    wrong = []
    for name, value in after.items():
        expected = grows.get(name, 0) * transactions
        grown = value - before[name]
        if grown < expected if name in repeated else grown != expected:
            wrong.append(f"{name}: {grown}, expected {expected}")
    wrong += [f"{name}: not counted" for name in grows if name not in after]
    return wrong


async def handled(db: asyncpg.Connection, prefix: str, act: int, since: str) -> tuple[int, ...]:
    """How many facts were handled, by service, of those said since an id: they tell that an act is over. Only
    these are looked at, so that it costs the same over large tables.
    """
    schemas = f"{prefix}_" if prefix else ""
    return tuple(
        [
            int(await db.fetchval(f"select count(*) from {schemas}{s}.inbox where ce_id >= $1::uuid", since))  # noqa: S608 - ours
            for s in listening(act)
        ]
    )


def listening(act: int) -> tuple[str, ...]:
    """Who handles facts in an act of a round."""
    return SERVICES if act == 2 else tuple(s for s in SERVICES if s != "enrollment")

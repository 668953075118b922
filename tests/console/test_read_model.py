"""Does the console remember what was said: once, in order, without secrets, and fast enough?"""

import time
from datetime import timedelta

from contracts.message import CONTRACTS, Sealed
from contracts.reasons import Reason
from contracts.topics import TOPICS
from services.console import rules, store
from services.console.handlers import on
from tests.console.made_up import NOON, Citizen, accepted, listening, parked, rejected
from tests.ground import Database


def test_every_published_fact_and_every_answer_is_heard_on_the_topic_it_is_said_on() -> None:
    facts = {c.type for c in CONTRACTS.values() if c.kind == "fact"}
    assert facts | {"answer.accepted.v1", "answer.rejected.v1"} == {s.type for s in on.by_type.values()}
    assert set(on.topics("bulk")) == {topic.name for topic in TOPICS.values() if not topic.inbound}
    assert on.topics("money") == []


async def test_a_persons_way_begins_with_what_the_channel_asked_for(database: Database) -> None:
    wang = Citizen()
    recorded, submitted, *_ = wang.facts()
    asked, applied = "enrollment.register_account.v1", "enrollment.submit_enrollment.v1"
    async with listening(database) as console:
        await console.answer(rejected("r-1", asked, Reason.ID_CHECKSUM, got="1***2"), "wechat", key="r-1")
        await console.answer(accepted("r-2", asked, person_id=wang.person), "wechat", key="r-2")
        await console.hear(recorded, submitted)
        result = {"enrollment_id": wang.enrollment, "status": "SUBMITTED"}
        await console.answer(accepted("r-3", applied, **result), "wechat", key=wang.person)
        await console.answer(rejected("r-4", applied, Reason.WINDOW_CLOSED), "wechat", key=wang.person)
        found = await store.timeline(console.db, wang.person)
        applying = await store.timeline(console.db, wang.enrollment)
    assert found is not None
    assert applying is not None
    told = [rules.details(step.type, step.about) for step in found.steps]
    assert told[0] == "请求 command register account；发送方 partner wechat；请求号 request r-2"
    assert [step.type for step in found.steps] == [
        "answer.accepted.v1", "answer.accepted.v1", "answer.rejected.v1", "enrollment.enrollment_submitted.v1"
    ]  # fmt: skip
    assert [step.type for step in applying.steps] == [
        "answer.accepted.v1", "enrollment.enrollment_submitted.v1"
    ]  # fmt: skip


async def test_a_citizens_way_is_found_by_every_id_it_has(database: Database) -> None:
    wang, li = Citizen(), Citizen("李*")
    async with listening(database) as console:
        ids = await console.hear(*wang.facts())
        await console.hear(*li.facts())
        for wanted, kind in (
            (wang.person, "person"),
            (wang.enrollment, "journey"),
            (wang.journey, "journey"),
            (wang.obligation, "bill"),
            (f"{wang.obligation}/1", "bill"),
            (wang.order, "order"),
            (wang.channel_ref, "transaction"),
            (ids[4], "event"),
        ):
            found = await store.timeline(console.db, wanted)
            assert found is not None, kind
            assert found.kind == kind
            assert [step.type.split(".")[1] for step in found.steps] == [
                "enrollment_submitted",
                "enrollment_approved",
                "bill_issued",
                "payment_settled",
                "bill_settled",
                "coverage_activated",
                "notification_sent",
            ]
            assert [person.name_masked for person in found.people] == ["王*芳"]
        assert await store.timeline(console.db, "nobody") is None
        assert await store.timeline(console.db, ids[0][:-4] + "0000") is None


async def test_a_fact_that_comes_twice_is_one_step_and_counts_once(database: Database) -> None:
    wang = Citizen()
    async with listening(database) as console:
        arrivals = [console.arrived(fact, NOON) for fact in wang.facts()]
        await console.engine.run(console.db, arrivals)
        await console.engine.run(console.db, [*arrivals, console.arrived(wang.unmatched(), NOON)])
        counts = await store.counts(console.db)
    assert counts.people == 1
    assert counts.facts["billing.bill_issued.v1"] == 1
    assert counts.lately == dict.fromkeys(counts.facts, 1)
    assert len(counts.facts) == 9


async def test_the_newest_masked_name_stands_whatever_comes_last(database: Database) -> None:
    wang = Citizen()
    async with listening(database) as console:
        await console.hear(wang.recorded("王*"), sequence=2)
        await console.hear(wang.recorded("王*芳"), sequence=1)
        found = await store.timeline(console.db, wang.person)
    assert found is not None
    assert [person.name_masked for person in found.people] == ["王*"]


async def test_what_is_parked_is_counted_by_service(database: Database) -> None:
    async with listening(database) as console:
        await console.hear(parked(1), parked(2))
        await console.hear(parked(1, "payment"), service="payment")
        counts = await store.counts(console.db)
    assert counts.parked == {"billing": 2, "payment": 1}


async def test_nothing_sealed_reaches_the_read_model(database: Database) -> None:
    async with listening(database) as console:
        await console.hear(*Citizen().facts())
        rows = await console.db.fetch(
            "select to_jsonb(s)::text from step s union all select to_jsonb(p)::text from person p"
        )
    assert not any("c2VhbGVk" in row[0] or "key_id" in row[0] for row in rows)
    assert Sealed.__struct_fields__


async def test_it_keeps_up_with_thousands_of_facts_a_second(database: Database) -> None:
    async with listening(database) as console:
        batches = []
        for n in range(4):
            citizens = [Citizen() for _ in range(125)]
            batches.append(
                [
                    console.arrived(fact, NOON + timedelta(minutes=n))
                    for citizen in citizens
                    for fact in citizen.facts()
                ]
            )
        await console.engine.run(console.db, batches.pop())  # statements are prepared once
        began = time.monotonic()
        for batch in batches:
            await console.engine.run(console.db, batch)
        rate = 3000 / (time.monotonic() - began)
    assert rate > 2000, f"{rate:.0f} facts a second"

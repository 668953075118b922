"""What does billing do when something arrives? Given, when, then on a real Postgres."""

from msgspec.structs import replace

from contracts.billing import BillIssued, BillSettled, BillWaived
from services.billing import store
from tests.billing.test_rules import ISSUED, SETTLED, WAIVED
from tests.people import LI_NA, REGION, WANG_JUN, ZHAO_XIAOYU
from tests.world import World, accepted, refused


async def test_who_is_approved_gets_a_bill_with_its_reasons(world: World) -> None:
    await world.when(WANG_JUN.approved("severely_disabled", "subsistence"))

    [fact] = world.published
    assert isinstance(fact, BillIssued)
    assert (fact.person_id, fact.enrollment_id, fact.journey) == (
        WANG_JUN.person_id, WANG_JUN.enrollment_id, WANG_JUN.journey)
    assert (fact.version, fact.category, fact.due_fen, fact.subsidy_fen) == (1, "subsistence", 12_000, 95_000)
    assert [(line.kind, line.fen, line.payable) for line in fact.lines] == [
        ("STANDARD", 40_000, True), ("SUBSIDY", -28_000, True),
        ("LTC", 1_000, False), ("SUBSIDY", 67_000, False),
    ]
    assert fact.explanation[-1] == "应缴120.00元，请于2025年3月31日前（含当日）缴纳"
    [kept] = await world.kept(store.BILLS, obligation_id=fact.obligation_id)
    assert (kept.status, kept.due_fen, kept.sequence) == ("ISSUED", 12_000, 1)


async def test_who_owes_nothing_hears_that_it_is_waived(world: World) -> None:
    await world.when(ZHAO_XIAOYU.approved("orphan"))

    [fact] = world.published
    assert isinstance(fact, BillWaived)
    assert (fact.category, fact.subsidy_fen, fact.policy) == ("orphan", 107_000, "demo-2025/1")
    [kept] = await world.kept(store.BILLS, obligation_id=fact.obligation_id)
    assert (kept.status, kept.issued_at) == ("WAIVED", fact.waived_at)


async def test_the_same_approval_twice_is_one_bill(world: World) -> None:
    await world.when(LI_NA.approved(), LI_NA.approved())
    await world.when(LI_NA.approved())

    assert world.published == []
    assert len(await world.kept(store.BILLS, person_id=LI_NA.person_id)) == 1


async def test_an_approval_under_a_policy_we_do_not_have_is_parked(world: World) -> None:
    await world.when(LI_NA.approved(year=2026), WANG_JUN.approved())

    assert await world.parked() == [("PARKED", "HANDLER_FAILED")]
    assert [type(fact) for fact in world.published if isinstance(fact, BillIssued)] == [BillIssued]


async def test_a_payment_settles_the_bill_it_names(world: World) -> None:
    await world.given(store.BILLS, ISSUED)

    await world.when(LI_NA.payment_settled())

    assert world.published == [BillSettled(
        journey=LI_NA.journey, region_code=REGION, person_id=LI_NA.person_id,
        enrollment_id=LI_NA.enrollment_id, obligation_id=LI_NA.obligation_id, version=1,
        order_id=LI_NA.order_id, paid_fen=40_000, paid_at=LI_NA.payment_settled().paid_at)]
    assert await world.kept(store.BILLS, obligation_id=LI_NA.obligation_id) == [SETTLED]


async def test_the_same_payment_twice_settles_once(world: World) -> None:
    await world.given(store.BILLS, ISSUED)

    await world.when(LI_NA.payment_settled(), LI_NA.payment_settled())

    assert [type(fact) for fact in world.published] == [BillSettled]


async def test_a_payment_for_a_superseded_version_settles_that_one(world: World) -> None:
    first = replace(ISSUED, status="SUPERSEDED", sequence=2)
    second = replace(ISSUED, version=2, due_fen=12_000, category="subsistence", certified=["subsistence"],
                     sequence=2)
    await world.given(store.BILLS, first, second)

    await world.when(LI_NA.payment_settled(version=1))

    bills = {bill.version: bill.status for bill in await world.kept(store.BILLS, person_id=LI_NA.person_id)}
    assert bills == {1: "SETTLED", 2: "ISSUED"}


async def test_a_payment_before_its_bill_waits_for_something_about_this_person(world: World) -> None:
    await world.when(LI_NA.payment_settled())
    assert await world.parked() == [("AWAITS", "AWAITS_GROUND")]

    await world.given(store.BILLS, ISSUED)
    await world.when(LI_NA.approved())

    assert [type(fact) for fact in world.published] == [BillSettled]
    assert await world.parked() == []


async def test_money_for_a_waived_bill_is_parked_because_payment_never_takes_any(world: World) -> None:
    await world.given(store.BILLS, WAIVED)

    await world.when(LI_NA.payment_settled())

    assert await world.parked() == [("PARKED", "HANDLER_FAILED")]
    assert await world.kept(store.BILLS, obligation_id=LI_NA.obligation_id) == [WAIVED]


async def test_who_asks_sees_amount_lines_and_reasons(world: World) -> None:
    await world.given(store.BILLS, ISSUED)
    await world.when(LI_NA.identified("alipay"))

    await world.when(LI_NA.asks_for_bill(), by="alipay")

    [result] = map(accepted, world.answers)
    lines, explanation = result.pop("lines"), result.pop("explanation")
    assert result == {"obligation_id": LI_NA.obligation_id, "version": 1, "status": "ISSUED",
                      "due_fen": 40_000, "closes_on": "2025-03-31"}
    assert [line["fen"] for line in lines] == [40_000, 1_000, 67_000]
    assert len(explanation) == 3


async def test_who_asks_too_early_is_told_to_ask_again(world: World) -> None:
    await world.when(LI_NA.identified("wechat"))

    await world.when(LI_NA.asks_for_bill(year=2026))

    [refusal] = map(refused, world.answers)
    assert (refusal.code, refusal.retryable) == ("BILL_NOT_FOUND", True)


async def test_another_channels_person_is_nobody_until_the_channel_has_identified_him(world: World) -> None:
    await world.given(store.BILLS, ISSUED)
    await world.when(LI_NA.identified("wechat"), WANG_JUN.identified("alipay"))

    await world.when(LI_NA.asks_for_bill(request_id="a"), by="alipay")
    [refusal] = map(refused, world.answers)
    assert (refusal.code, refusal.field, refusal.retryable) == ("PERSON_NOT_FOUND", "person_id", True)
    assert "40000" not in str(refusal)

    await world.when(LI_NA.identified("alipay"), LI_NA.identified("alipay"))
    await world.when(LI_NA.asks_for_bill(request_id="a"), by="alipay")
    assert [accepted(answer)["due_fen"] for answer in world.answers] == [40_000]

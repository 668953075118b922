"""Do waves keep apart what shares a ref, and in order what must follow?"""

from typing import NamedTuple

from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from contracts.topics import PARTITIONS
from services.chassis.ids import partition_of, uuid7
from services.chassis.refs import Refs, waves


class Item(NamedTuple):
    """Something with refs."""

    number: int
    refs: tuple[int, ...]


batches = st.lists(st.lists(st.integers(0, 5), max_size=3, unique=True), max_size=30).map(
    lambda refs: [Item(number, tuple(each)) for number, each in enumerate(refs)]
)


@given(batches)
def test_no_wave_holds_two_that_share_a_ref(batch: list[Item]) -> None:
    for wave in waves(batch):
        refs = [ref for item in wave for ref in item.refs]
        assert len(refs) == len(set(refs))


@given(batches)
def test_whatever_shares_a_ref_keeps_its_order_and_nothing_is_lost(batch: list[Item]) -> None:
    cut = waves(batch)
    wave_of = {item.number: n for n, wave in enumerate(cut) for item in wave}
    assert sorted(wave_of) == [item.number for item in batch]
    for late in batch:
        for early in batch[: late.number]:
            if not set(early.refs).isdisjoint(late.refs):
                assert wave_of[early.number] < wave_of[late.number]


def test_a_batch_without_common_refs_is_one_wave() -> None:
    assert len(waves([Item(n, (n,)) for n in range(100)])) == 1


def test_refs_of_two_services_or_kinds_never_meet() -> None:
    one = uuid7()
    billing, payment = Refs("billing"), Refs("payment")
    numbers = {
        billing.by_uuid("person")(one),
        billing.by_uuid("order")(one),
        payment.by_uuid("person")(one),
        billing.by_text("person")(one),
        billing.by_text("person")(one, 2025),
    }
    assert len(numbers) == 5
    assert all(-(2**63) <= number < 2**63 for number in numbers)


def test_keys_go_where_other_clients_put_them() -> None:
    keys = ["a", "hello", "990100", *(uuid7() for _ in range(50))]
    theirs = DefaultPartitioner()
    assert [partition_of(key) for key in keys] == [
        theirs(key.encode(), list(range(PARTITIONS)), list(range(PARTITIONS))) for key in keys
    ]

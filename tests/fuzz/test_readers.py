"""What do the readers of all services make of what is wrong with a message? Without a server: a millisecond
each."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from contracts.partners import PARTNERS
from sandbox.fuzz.due import Payload
from sandbox.fuzz.facts import Facts
from sandbox.fuzz.payloads import Commands, stream
from sandbox.keys import make_keys
from sandbox.partner import Partner
from services.chassis.keys import load_keyring
from services.chassis.settings import Kafka
from tests.fuzz.readers import Readers, wrong

COUNT = 3_000


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "keys"
    make_keys(folder)
    return folder


@pytest.fixture(scope="module")
def commands(keys: Path) -> Callable[[int], Commands]:
    """Payloads by their seed."""
    partners = {
        code: Partner(
            code, Kafka(bootstrap=""), load_keyring(keys / f"{code}.json"), lambda: datetime.now(UTC)
        )
        for code in PARTNERS
    }
    return lambda seed: Commands(partners, Random(seed), "fuzz")


@pytest.mark.parametrize("seed", range(3))
def test_each_payload_is_kept_or_refused_by_one_service_for_its_reason_and_with_its_path(
    commands: Callable[[int], Commands], keys: Path, seed: int
) -> None:
    assert not mistaken(Readers(keys), stream(commands(seed), COUNT))


def test_a_broken_fact_is_kept_by_all_who_hear_it_and_a_known_or_strange_one_by_nobody(keys: Path) -> None:
    facts = Facts([], Random(1))
    assert not mistaken(Readers(keys), (facts.one(number) for number in range(COUNT)))


def mistaken(readers: Readers, payloads: Iterable[Payload]) -> list[str]:
    """What became of the payloads that it must not."""
    return sorted(
        {
            f"{payload.what}: {what}"
            for payload in payloads
            if (what := wrong(payload.due, readers.hear(payload)))
        }
    )

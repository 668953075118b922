"""What do the readers of all services make of what is wrong with a message? Without a server: a millisecond
each."""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from random import Random

import pytest

from contracts.partners import PARTNERS
from sandbox.fuzz.due import Payload
from sandbox.fuzz.facts import Facts
from sandbox.fuzz.payloads import Commands, stream
from sandbox.keys import make_keys
from sandbox.partner import Partner
from services.chassis import forbidden, misfits, trust, wire
from services.chassis.keys import load_keyring
from services.chassis.settings import Kafka
from services.chassis.wire import Reader
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


@pytest.mark.parametrize("seed", range(2))
def test_each_payload_is_kept_or_refused_by_one_service_for_its_reason_and_with_its_path(
    commands: Callable[[int], Commands], keys: Path, seed: int
) -> None:
    assert sorted({*mistaken(Readers(keys), stream(commands(seed), COUNT))}) == []


def test_a_broken_fact_is_kept_by_all_who_hear_it_and_a_known_or_strange_one_by_nobody(keys: Path) -> None:
    facts = Facts([], Random(1))
    assert sorted({*mistaken(Readers(keys), (facts.one(number) for number in range(COUNT)))}) == []


def mistaken(readers: Readers, payloads: Iterable[Payload]) -> Iterator[str]:
    """What became of the payloads that it must not."""
    return (
        f"{payload.what}: {what}"
        for payload in payloads
        if (what := wrong(payload.due, readers.hear(payload)))
    )


def trusting(*_: object, **__: object) -> None:
    """Everything is signed, nothing is secret."""


def unnamed(_: object) -> str:
    """No field has a name."""
    return ""


PLANTS: dict[str, tuple[object, str, object]] = {
    "every signature is believed": (trust, "verify", trusting),
    "no secret is looked for": (forbidden, "find", trusting),
    "no field is named": (misfits, "path", unnamed),
    "what fits no row goes to its handler": (misfits, "misfit", lambda *_: ""),
    "an order is kept by all who hear it": (Reader, "_is_kept_elsewhere", lambda *_: False),
    "an order is kept by nobody": (Reader, "_is_kept_elsewhere", lambda *_: True),
    "what is misplaced is skipped": (Reader, "_foreign", trusting),
    "what is strange is skipped": (Reader, "_stranger", trusting),
    "a record key may be anything": (wire, "LONGEST_KEY", 10**6),
    "anything is a request id": (wire, "REQUEST_ID", re.compile(r"[\s\S]*")),
    "a fact's number may be missing": (wire, "_NUMBER", re.compile(rb"[\s\S]*")),
    "the future is now": (wire, "_AHEAD_MS", 10**9),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_bug_that_is_planted_in_the_readers_is_found(
    commands: Callable[[int], Commands], keys: Path, monkeypatch: pytest.MonkeyPatch, plant: str
) -> None:
    place, name, instead = PLANTS[plant]
    monkeypatch.setattr(place, name, instead)
    facts = Facts([], Random(1))
    payloads = chain(stream(commands(0), COUNT), (facts.one(number) for number in range(COUNT)))
    assert next(mistaken(Readers(keys), payloads), None)

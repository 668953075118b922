"""Does a forged, altered, replayed or misattributed message ever pass for a partner's?"""

from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.partners import PARTNERS
from contracts.reasons import Reason
from sandbox.keys import make_keys
from services.chassis import trust
from services.chassis.keys import Keyring, load_keyring

NOW = 1_791_000_000_000
BODY = b'{"request_id":"b-1","amount_fen":40000}'
KEY = b"0190f3a0-0000-7000-8000-000000000001"
Head = dict[str, bytes | None]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("trust") / "keys"
    make_keys(made)
    return made


@pytest.fixture(scope="session")
def payment(folder: Path) -> Keyring:
    return load_keyring(folder / "payment.json")


def signed(folder: Path, code: str = "bank", *, topic: str = "", money: bool = True) -> Head:
    """What the partner sends, signed for its own topic unless another is named."""
    at = topic or PARTNERS[code].topic
    head = {"ce_id": b"0190f3a0-0000-7000-8000-00000000000e", "ce_type": b"payment.report_payment.v1",
            "ce_time": b"2026-10-12T09:30:00+08:00", "ce_source": trust.source_of(at).encode()}
    sig = trust.sign(
        load_keyring(folder / f"{code}.json"),
        topic=at,
        key=KEY,
        headers=head,
        value=BODY,
        money=money,
        now_ms=NOW,
    )
    return {**head, **dict(sig)}


def check(ring: Keyring, head: Head, *, topic: str = "channels.bank", key: bytes = KEY, value: bytes = BODY,
          broker_ms: int = NOW, money: bool = True) -> Reason | None:
    return trust.verify(
        ring, topic=topic, key=key, headers=head, value=value, broker_ms=broker_ms, money=money
    )


@pytest.mark.parametrize("code", list(PARTNERS))
@pytest.mark.parametrize("money", [True, False])
def test_what_a_partner_signs_for_its_topic_is_believed_by_who_reads_it(
    folder: Path, code: str, money: bool
) -> None:
    reader = load_keyring(folder / "enrollment.json")

    assert check(reader, signed(folder, code, money=money), topic=PARTNERS[code].topic, money=money) is None


Forgery = Callable[[Head, Path], Head]
FORGERIES: dict[str, Forgery] = {
    "no signature": lambda head, _: {k: v for k, v in head.items() if k != "sig"},
    "empty signature": lambda head, _: head | {"sig": b""},
    "null signature": lambda head, _: head | {"sig": None},
    "cut signature": lambda head, _: head | {"sig": b64encode(b64decode(head["sig"] or b"")[:-1])},
    "signature twice": lambda head, _: head | {"sig": (head["sig"] or b"") * 2},
    "not base64": lambda head, _: head | {"sig": b"\xff\xfe!"},
    "huge signature": lambda head, _: head | {"sig": b"A" * 4_000_000},
    "another partner's key": lambda head, folder: head | {
        k: v for k, v in signed(folder, "counter").items() if k.startswith("sig")},
    "another partner's everything": lambda _, folder: signed(folder, "counter"),
    "another partner's key on this topic": lambda head, folder: head | {
        k: v for k, v in signed(folder, "counter", topic="channels.bank").items() if k.startswith("sig")},
    "unknown key": lambda head, _: head | {"sig_key": b"bank.rsa.0"},
    "key id as a path": lambda head, _: head | {"sig_key": b"../bank.rsa.1"},
    "hmac under the rsa key's name": lambda head, folder: head | {"sig": signed(folder, money=False)["sig"]},
    "a shared secret for money": lambda _, folder: signed(folder, money=False),
    "another id": lambda head, _: head | {"ce_id": b"0190f3a0-0000-7000-8000-00000000000f"},
    "another type": lambda head, _: head | {"ce_type": b"payment.start_payment.v1"},
    "another time": lambda head, _: head | {"ce_time": b"2026-10-12T09:30:01+08:00"},
    "another source": lambda head, _: head | {"ce_source": b"/channels/counter"},
    "later signing time": lambda head, _: head | {"sig_at": b"%d" % (NOW + 1)},
    "signing time in other digits": lambda head, _: head | {"sig_at": "１７９１".encode()},
    "negative signing time": lambda head, _: head | {"sig_at": b"-1"},
    "endless signing time": lambda head, _: head | {"sig_at": b"9" * 5000},
    "a field moved across the line": lambda head, _: head | {
        "ce_id": (head["ce_id"] or b"") + b"\n" + (head["ce_type"] or b""), "ce_type": head["ce_time"]},
}


@pytest.mark.parametrize("name", list(FORGERIES))
def test_a_forgery_is_refused(folder: Path, payment: Keyring, name: str) -> None:
    assert check(payment, FORGERIES[name](signed(folder), folder)) is Reason.SIGNATURE_INVALID


@pytest.mark.parametrize(("topic", "key", "value"), [
    ("channels.bank", KEY, BODY + b" "),                # one byte more
    ("channels.bank", KEY, BODY.replace(b"4", b"5")),
    ("channels.bank", KEY[:-1] + b"2", BODY),           # another person
    ("channels.counter", KEY, BODY),                    # the same bytes put on another partner's topic
    ("billing.bills", KEY, BODY),                       # no partner's topic
    ("\ud800", KEY, BODY),
])
def test_a_signature_covers_topic_key_and_every_byte(
    folder: Path, payment: Keyring, topic: str, key: bytes, value: bytes
) -> None:
    assert check(payment, signed(folder), topic=topic, key=key, value=value) is Reason.SIGNATURE_INVALID


@pytest.mark.parametrize(("late_ms", "reason"), [
    (0, None), (300_000, None), (-300_000, None), (300_001, Reason.CLOCK_SKEW), (-300_001, Reason.CLOCK_SKEW),
])
def test_a_signature_is_fresh_for_five_minutes_around_its_arrival(
    folder: Path, payment: Keyring, late_ms: int, reason: Reason | None
) -> None:
    assert check(payment, signed(folder), broker_ms=NOW + late_ms) is reason


def test_a_field_that_holds_a_line_break_is_refused_even_when_signed(folder: Path, payment: Keyring) -> None:
    head = {name: value for name, value in signed(folder).items() if value and name.startswith("ce_")}
    head["ce_id"] = b"one\ntwo"
    sig = trust.sign(
        load_keyring(folder / "bank.json"),
        topic="channels.bank",
        key=KEY,
        headers=head,
        value=BODY,
        money=True,
        now_ms=NOW,
    )

    assert check(payment, {**head, **dict(sig)}) is Reason.SIGNATURE_INVALID


def test_a_service_believes_only_partners_whose_topics_it_reads(folder: Path) -> None:
    notify = load_keyring(folder / "notify.json")

    assert check(notify, signed(folder)) is Reason.SIGNATURE_INVALID
    assert check(notify, signed(folder, "operators"), topic="operators") is None


@given(
    head=st.dictionaries(
        st.sampled_from(["sig_key", "sig_at", "sig", "ce_id", "ce_type", "ce_time", "ce_source"]),
        st.none() | st.binary(max_size=40) | st.sampled_from([b"bank.rsa.1", b"/channels/bank", b"1"]),
    ),
    key=st.binary(max_size=40),
    value=st.binary(max_size=80),
    at=st.integers(0, 2**62),
)
def test_garbage_is_refused_and_never_raises(
    payment: Keyring, head: Head, key: bytes, value: bytes, at: int
) -> None:
    assert check(payment, head, key=key, value=value, broker_ms=at) is Reason.SIGNATURE_INVALID

"""What does the reader make of what partners and strangers put on a topic?"""

import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.json import encode

from contracts.billing import BillSettled
from contracts.enrollment import Identity, Registration
from contracts.message import Sealed, contract_of
from contracts.payment import ReportPayment
from contracts.reasons import Reason
from sandbox.keys import make_keys
from services.chassis import metrics, trust
from services.chassis.arrival import Arrival, Raw, Unreadable
from services.chassis.ids import uuid7
from services.chassis.keys import Keyring, load_keyring
from services.chassis.subscriptions import Batch, Subscriptions
from services.chassis.transaction import Transaction
from services.chassis.wire import Reader

PERSON = uuid7()
TOPIC = "channels.bank"
BODY: dict[str, object] = {
    "request_id": "r-1",
    "person_id": PERSON,
    "obligation_id": uuid7(),
    "insurance_year": 2025,
    "amount_fen": 40000,
    "channel_ref": "T1",
    "paid_at": "2024-12-20T09:00:00+08:00",
    "method": "CASH",
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wire") / "keys"
    make_keys(folder)
    return folder


class Post:
    """A bank that may do anything, and payment's reader that looks at it."""

    def __init__(self, folder: Path) -> None:
        self.bank = load_keyring(folder / "bank.json")
        self.wechat = load_keyring(folder / "wechat.json")
        self.touched = 1
        on = Subscriptions("payment")

        @on(ReportPayment, refs=lambda command: [*range(self.touched)])
        async def handle(commands: Batch[ReportPayment], tx: Transaction) -> None:
            """Never called here."""

        @on(BillSettled, refs=lambda told: [*range(self.touched)], lane="money")
        async def hear(facts: Batch[BillSettled], tx: Transaction) -> None:
            """Never called here."""

        self.reader = Reader(on, "money", load_keyring(folder / "payment.json"), frozenset({TOPIC}))
        seal: Sealed[Registration] = self.bank.seal(
            Registration(id_kind="RESIDENT_ID", name="李娜", id_number="x", phone="1"),
            reader="payment",
            place="T1",
        )
        self.other_seal = {"reader": seal.reader, "key_id": seal.key_id, "box": seal.box}

    def body(self, **changes: object) -> bytes:
        seal: Sealed[Identity] = self.bank.seal(
            Identity(name="李娜", id_number="990100199001011234"), reader="payment", place="T1"
        )
        whole = (
            BODY | {"payer_saw": {"reader": seal.reader, "key_id": seal.key_id, "box": seal.box}} | changes
        )
        return encode({name: value for name, value in whole.items() if value is not ...})

    def read(
        self,
        value: bytes,
        *,
        type: str = "payment.report_payment.v1",
        key: str = PERSON,
        topic: str = TOPIC,
        signer: Keyring | None = None,
        money: bool = True,
        age_ms: int = 0,
        before: Mapping[str, bytes] = {},
        after: Mapping[str, bytes | None] = {},
    ) -> object:
        now = int(time.time() * 1000)
        source = trust.source_of(topic).encode()
        headers: dict[str, bytes] = {
            "ce_id": uuid7().encode(),
            "ce_type": type.encode(),
            "ce_time": b"2024-12-20T01:00:00Z",
            "ce_source": source,
        }
        signed = trust.sign(
            signer or self.bank,
            topic=topic,
            key=key.encode(),
            headers=headers,
            value=value,
            money=money,
            now_ms=now - age_ms,
        )
        whole = {**headers, **dict(signed), **after}
        all_headers = (*before.items(), *whole.items())
        return self.reader.read(Raw(topic, 0, 1, key.encode(), all_headers, value, now))


@pytest.fixture(scope="module")
def post(keys: Path) -> Post:
    return Post(keys)


def reason(what: object) -> str:
    """Why it was set aside or refused; "" when it goes to its handler, "skipped" when it is not ours."""
    if what is None:
        return "skipped"
    if isinstance(what, Unreadable):
        return f"parked {what.reason.name}"
    assert isinstance(what, Arrival)
    return f"refused {what.refusal.code} {what.refusal.field}".strip() if what.refusal else ""


@pytest.mark.parametrize("escaped", [b"\\n", b"\\u000a", b"\\u000A"])
@pytest.mark.parametrize("field", ["obligation_id", "channel_ref", "method"])
def test_a_line_break_behind_an_id_is_refused_before_it_is_handlers_business(
    post: Post, field: str, escaped: bytes
) -> None:
    whole = post.body(**{field: f"{BODY[field]}|"})
    assert reason(post.read(whole.replace(b"|", escaped))) == f"refused SCHEMA_INVALID {field}"


def test_a_signed_report_goes_to_its_handler(post: Post) -> None:
    assert reason(post.read(post.body())) == ""


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"amount_fen": 400.0}, "refused SCHEMA_INVALID amount_fen"),
        ({"amount_fen": 39999.5}, "refused SCHEMA_INVALID amount_fen"),
        ({"amount_fen": -40000}, "refused SCHEMA_INVALID amount_fen"),
        ({"amount_fen": "40000"}, "refused SCHEMA_INVALID amount_fen"),
        ({"person_id": "somebody"}, "refused SCHEMA_INVALID person_id"),
        ({"paid_at": "2024-12-20 09:00"}, "refused SCHEMA_INVALID paid_at"),
        ({"channel_ref": ...}, "refused SCHEMA_INVALID channel_ref"),
        ({"channel_ref": "T2"}, "refused SCHEMA_INVALID payer_saw.box"),
        ({"method": "CASH\x00"}, "refused SCHEMA_INVALID method"),
        ({"person_id": uuid7()}, "refused SCHEMA_INVALID record key"),
        ({"request_id": ...}, "parked SCHEMA_INVALID"),
        ({"request_id": "a b"}, "parked SCHEMA_INVALID"),
        ({"request_id": "a\x00b"}, "parked SCHEMA_INVALID"),
        ({"paid_at": "0001-01-01T00:00:00+14:00"}, "refused SCHEMA_INVALID paid_at"),
        ({"paid_at": "9999-12-31T23:59:59-12:00"}, "refused SCHEMA_INVALID paid_at"),
        ({"channel_ref": "x" * 300_000}, "parked SCHEMA_INVALID"),
        ({"password": "123456"}, "parked SECRET_IN_MESSAGE"),
        ({"nested": {"cvv": 123}}, "parked SECRET_IN_MESSAGE"),
    ],
)
def test_an_authentic_misfit_is_answered_with_its_field(
    post: Post, changes: dict[str, object], outcome: str
) -> None:
    assert reason(post.read(post.body(**changes))) == outcome


@pytest.mark.parametrize(
    ("how", "outcome"),
    [
        # a shared secret may not claim money
        ({"money": False}, "parked SIGNATURE_INVALID"),
        ({"age_ms": 301_000}, "parked CLOCK_SKEW"),
        ({"age_ms": -301_000}, "parked CLOCK_SKEW"),
        ({"after": {"sig": b"AAAA"}}, "parked SIGNATURE_INVALID"),
        ({"after": {"sig": None}}, "parked SIGNATURE_INVALID"),
        ({"after": {"ce_source": b"/channels/wechat"}}, "parked SIGNATURE_INVALID"),
        ({"after": {"ce_time": b"2025-01-01T00:00:00Z"}}, "parked SIGNATURE_INVALID"),
        # not handled by this reader at all
        ({"after": {"ce_type": b"payment.start_payment.v1"}}, "skipped"),
        # enrollment reads this topic and judges it
        ({"type": "enrollment.register_account.v1"}, "skipped"),
        ({"type": "enrollment.review_decision.v1"}, "skipped"),
        # a fact is said by its owner only
        ({"type": "billing.bill_issued.v1"}, "parked NOT_PERMITTED"),
        ({"type": "payment.report_payment.v9"}, "parked VERSION_UNSUPPORTED"),
        ({"type": "nobody.knows.v1"}, "parked TYPE_UNKNOWN"),
        ({"after": {"ce_type": None}}, "parked BODY_INVALID"),
        ({"after": {"ce_type": b"\xff\xfe"}}, "parked TYPE_UNKNOWN"),
    ],
)
def test_who_is_not_who_he_says_is_parked_without_refs(
    post: Post, how: dict[str, object], outcome: str
) -> None:
    assert reason(post.read(post.body(), **how)) == outcome  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "how",
    [
        {"after": {"sig": b"AAAA"}},
        {"money": False},
        {"age_ms": 301_000},
        {"type": "nobody.knows.v1"},
        {"type": "billing.bill_issued.v1"},
        {"key": "k" * 1_000},
        {"after": {"ce_type": None}},
    ],
)
def test_of_a_message_with_a_secret_no_byte_is_kept_whoever_sent_it(
    post: Post, how: dict[str, object]
) -> None:
    what = post.read(post.body(pin="123456"), **how)  # type: ignore[arg-type]
    assert isinstance(what, Unreadable)
    assert (what.reason, what.detail, what.secret) == (Reason.SECRET_IN_MESSAGE, "pin", True)


def test_garbage_that_may_hide_a_secret_keeps_its_reason_but_not_its_bytes(post: Post) -> None:
    what = post.read(b'{"password": "1', after={"sig": b"AAAA"})
    assert isinstance(what, Unreadable)
    assert (what.reason, what.secret) == (Reason.SIGNATURE_INVALID, True)


@pytest.mark.parametrize(
    ("signed_as", "before"),
    [
        ("payment.start_payment.v1", {"ce_type": b"payment.report_payment.v1"}),
        ("payment.report_payment.v1", {"ce_id": b"x"}),
        ("payment.report_payment.v1", {"sig": b"x"}),
    ],
)
def test_a_header_that_stands_twice_says_two_things_and_neither_is_believed(
    post: Post, signed_as: str, before: dict[str, bytes]
) -> None:
    assert reason(post.read(post.body(), type=signed_as, before=before)) == "parked BODY_INVALID"


@pytest.mark.parametrize("key", ["a\x00b", "k" * 1_000_000])
def test_a_record_key_that_is_none_is_parked_and_never_answered(post: Post, key: str) -> None:
    assert reason(post.read(post.body(), key=key)) == "parked SCHEMA_INVALID"


@pytest.mark.parametrize("key", ["990100199003078512", "r-2", "张三"])
def test_a_record_key_is_what_the_contract_says_and_nothing_else_is_repeated(post: Post, key: str) -> None:
    other = post.read(post.body(), key=key)
    assert isinstance(other, Arrival)
    assert reason(other) == "refused SCHEMA_INVALID record key"
    assert other.key == PERSON
    misfit = post.read(post.body(amount_fen="x"), key=key)
    assert isinstance(misfit, Arrival)
    assert misfit.key == ""


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("payment.bribe.v1", "payment.bribe.v1"), ("李娜 990100199003078512", "?"),
        ("990100199003078512", "?"), ("call.13812345678", "?"),
    ],
)  # fmt: skip
def test_a_type_nobody_knows_is_repeated_only_if_it_looks_like_one(post: Post, kind: str, shown: str) -> None:
    what = post.read(post.body(), type=kind)
    assert isinstance(what, Unreadable)
    assert (what.reason, what.type, what.detail) == (Reason.TYPE_UNKNOWN, shown, shown)


def test_another_channels_key_opens_nothing(post: Post) -> None:
    assert reason(post.read(post.body(), signer=post.wechat)) == "parked SIGNATURE_INVALID"


def test_a_channel_that_may_not_report_payments_is_told_so(post: Post) -> None:
    body = post.body()
    assert (
        reason(post.read(body, topic="channels.wechat", signer=post.wechat))
        == "refused NOT_PERMITTED ce_type"
    )


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff\xfe\x00", b"{", b"null", b"[]", b"[" * 100_000, b'{"request_id":' + b'"x' * 9, b"1e999"],
)
def test_a_signed_body_that_is_no_message_is_parked(post: Post, value: bytes) -> None:
    assert reason(post.read(value)) in ("parked SCHEMA_INVALID", "parked BODY_INVALID")


def test_structured_mode_is_read_like_binary_mode(post: Post) -> None:
    now, ce_id = int(time.time() * 1000), uuid7()
    attributes = {
        "ce_id": ce_id,
        "ce_type": "payment.report_payment.v1",
        "ce_time": "2024-12-20T01:00:00Z",
        "ce_source": "/channels/bank",
    }
    value = (
        b'{"specversion":"1.0",'
        + b",".join(f'"{name[3:]}":"{text}"'.encode() for name, text in attributes.items())
        + b',"data":'
        + post.body()
        + b"}"
    )
    signed = trust.sign(
        post.bank,
        topic=TOPIC,
        key=PERSON.encode(),
        headers={k: v.encode() for k, v in attributes.items()},
        value=value,
        money=True,
    )
    headers = (("content-type", b"application/cloudevents+json; charset=utf-8"), *signed)

    assert reason(post.reader.read(Raw(TOPIC, 0, 1, PERSON.encode(), headers, value, now))) == ""
    tampered = value.replace(b"40000", b"40001")
    assert (
        reason(post.reader.read(Raw(TOPIC, 0, 1, PERSON.encode(), headers, tampered, now)))
        == "parked SIGNATURE_INVALID"
    )


def test_the_same_wish_sealed_twice_has_one_digest(post: Post) -> None:
    first, second = post.read(post.body()), post.read(post.body())
    assert isinstance(first, Arrival)
    assert isinstance(second, Arrival)
    assert first.digest == second.digest
    assert contract_of(first.message).money
    other = post.read(post.body(amount_fen=40001))
    assert isinstance(other, Arrival)
    assert other.digest != first.digest


def fact(post: Post, *, event_id: str, sequence: bytes = b"1", subject: bytes = b"s") -> object:
    headers = (("ce_id", event_id.encode()), ("ce_type", b"billing.bill_settled.v1"), ("ce_subject", subject),
               ("ce_sequence", sequence))
    body = {
        "journey": "",
        "region_code": "990100",
        "person_id": PERSON,
        "enrollment_id": PERSON,
        "obligation_id": PERSON,
        "version": 1,
        "order_id": PERSON,
        "paid_fen": 1,
        "paid_at": "2024-12-20T01:00:00Z",
    }
    now = int(time.time() * 1000)
    return post.reader.read(Raw("billing.bills", 0, 1, PERSON.encode(), headers, encode(body), now))


def aged(milliseconds: int) -> str:
    """A uuid7 of another time."""
    stamp = f"{int(time.time() * 1000) - milliseconds:012x}"
    return f"{stamp[:8]}-{stamp[8:]}-{uuid7()[14:]}"


@pytest.mark.parametrize(("many", "outcome"), [(100, ""), (101, "parked FANOUT_TOO_WIDE")])
def test_a_fact_that_touches_more_than_a_hundred_refs_is_set_aside(
    post: Post, many: int, outcome: str
) -> None:
    post.touched = many
    try:
        assert reason(fact(post, event_id=uuid7())) == outcome
    finally:
        post.touched = 1


def test_a_command_that_touches_more_than_a_hundred_refs_is_told_so(post: Post) -> None:
    post.touched = 101
    try:
        assert reason(post.read(post.body())) == "refused FANOUT_TOO_WIDE"
    finally:
        post.touched = 1


def test_an_id_from_the_future_is_parked(post: Post) -> None:
    assert reason(fact(post, event_id=aged(-600_000))) == "parked ID_FROM_FUTURE"


def test_a_skipped_number_raises_an_alarm_and_holds_up_nobody(post: Post) -> None:
    def gaps() -> str:
        ours = 'canbao_fact_gap_total{service="payment",topic="billing.bills"}'
        lines = metrics.exposition()[0].decode().splitlines()
        return next((line for line in lines if line.startswith(ours)), "")

    before = gaps()
    for number in (b"1", b"2", b"2", b"1", b"3"):
        assert reason(fact(post, event_id=uuid7(), sequence=number, subject=b"gap")) == ""
    assert gaps() == before
    assert reason(fact(post, event_id=uuid7(), sequence=b"5", subject=b"gap")) == ""
    assert gaps() != before
    late = gaps()
    assert reason(fact(post, event_id=uuid7(), sequence=b"4", subject=b"gap")) == ""
    assert gaps() == late


def test_every_reason_has_words_in_two_languages() -> None:
    for each in Reason:
        assert all((each.zh, each.en, each.todo_zh, each.todo_en))

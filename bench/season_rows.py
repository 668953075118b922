"""Which rows does a season leave behind, for each of its people? SQL, written in the order of their lives."""

import json
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct, convert

from contracts.answers import ANSWER_TYPES, Accepted
from contracts.message import CONTRACTS
from contracts.partners import PARTNERS
from services.billing.handlers import on as billing
from services.chassis.subscriptions import Subscriptions
from services.console.handlers import on as console
from services.console.rules import BY_TYPE, Place, Step, answered, step
from services.enrollment.handlers import on as enrollment
from services.notify.handlers import on as notify
from services.payment.handlers import on as payment

_SAMPLES = Path(__file__).parent.parent / "contracts" / "samples"
_SAMPLE_ID = "01930a5e-7c00-7000-8000-00000000000"
_NUMBER = "@n@"  # stands for the person's number
_NOTHING = "''"
READERS: dict[str, Subscriptions] = {
    "enrollment": enrollment, "billing": billing, "payment": payment, "notify": notify, "console": console
}  # fmt: skip


class Said(Struct, frozen=True):
    """One message a person. number: tells its id from the person's other ids. about: the command answered."""

    number: int
    service: str
    type: str
    topic: str
    about: str = ""


_LIFE = (
    "enrollment.person_recorded.v1",
    "enrollment.enrollment_submitted.v1",
    "enrollment.enrollment_approved.v1",
    "billing.bill_issued.v1",
    "notify.notification_sent.v1",
    "payment.payment_settled.v1",
    "billing.bill_settled.v1",
    "notify.notification_sent.v1",
    "enrollment.coverage_activated.v1",
    "notify.notification_sent.v1",
)
_ANSWERED = (
    ("enrollment", "enrollment.register_account.v1", '{"person_id":"%1$s"}'),
    ("enrollment", "enrollment.submit_enrollment.v1", '{"enrollment_id":"%2$s","status":"SUBMITTED"}'),
    ("enrollment", "enrollment.review_decision.v1", '{"enrollment_id":"%2$s","status":"APPROVED"}'),
    ("payment", "payment.start_payment.v1", '{"order_id":"%4$s","pay_url":"weixin://wxpay/bizpayurl?pr=7"}'),
)
SAID = (
    *(Said(16 + n, name.partition(".")[0], name, CONTRACTS[name].topic) for n, name in enumerate(_LIFE)),
    *(
        Said(32 + n, service, ANSWER_TYPES[Accepted], PARTNERS["wechat"].replies, command)
        for n, (service, command, _) in enumerate(_ANSWERED)
    ),
)
_RESULTS = {command: result for _, command, result in _ANSWERED}

# Ids are uuid7s that can be told again from a person's number: what they name, and when it was born.
PEOPLE = """
create schema season;
create function season.id(what int, n int, ms bigint) returns uuid language sql immutable as
$$ select (lpad(to_hex(ms), 12, '0') || '7' || lpad(to_hex(what), 3, '0')
           || '8' || lpad(to_hex(n), 15, '0'))::uuid $$;
create unlogged table season.citizen as
select n, ms, to_timestamp(ms / 1000.0) as at, (n % 4)::smallint as part, season.id(1, n, ms) as person,
       season.id(2, n, ms) as enrollment, season.id(3, n, ms) as obligation, season.id(4, n, ms) as order_id,
       season.id(5, n, ms) as entry, replace(season.id(2, n, ms)::text, '-', '') as journey,
       '4200' || lpad(n::text, 24, '0') as channel_ref
from (select n, {began}::bigint + n as ms from generate_series(1, {bills}) n) born"""

ROWS: dict[str, tuple[str, ...]] = {
    "enrollment": (
        "enrollment.person select person, sha256(person::text::bytea), '990100', 'REAL_NAME', 'k.1',"
        " repeat('sealed', 30), at, 1",
        "enrollment.enrollment select enrollment, person, '990100', 'resident', 2025, 'APPROVED', '[]',"
        " 'wechat', 'self', at, 'officer', at, '[]', 2",
        "enrollment.coverage select enrollment, person, '990100', 'resident', 2025, 'ACTIVE', at, at, false,"
        " date '2025-01-01', date '2025-12-31', 1",
    ),
    "billing": (
        "billing.bill select obligation, 1, enrollment, person, '990100', 'resident', 2025, 'ordinary',"
        " '[]', 40000, 67000, 'demo-2025/1', date '2025-03-31', 'SETTLED', order_id, at, at, 2",
    ),
    "payment": (
        'payment.person select person, \'{"box": "sealed"}\', 1',
        "payment.obligation select obligation, person, enrollment, journey, '990100', 2025, 1, 40000,"
        " 'SETTLED', order_id, null",
        "payment.orders select order_id, person, 'wechat', 'wechat', 'pay-' || n, 40000, 'SETTLED',"
        " channel_ref, at, at, 1",
        "payment.order_item select order_id, 0, person, obligation, 1, 40000, 'SETTLED'",
        "payment.receipt select 'wechat', channel_ref, order_id, null, 40000, '', at, at",
        "payment.ledger select entry, 1, 1002, 40000, order_id, at",
        "payment.ledger select entry, 2, 2202, -40000, order_id, at",
    ),
    "notify": (
        "notify.addressee select person, '990100', '王*芳', '{\"box\": \"sealed\"}', 1",
        *(
            f"notify.notification select season.id({fact}, n, ms), person, journey, '990100', '{template}',"
            " '{}', '138****0001', 'SMS', 'SENT', 1, n::text, '', at, at"
            for fact, template in ((19, "bill_issued"), (21, "payment_settled"), (24, "coverage_activated"))
        ),
    ),
    "console": ("console.person select person, '990100', '王*芳', at, 1",),
}


def outbox(service: str) -> str:
    """What the service said of everybody, a person after the other."""
    rows = ", ".join(
        f"({said.number}, '{said.topic}', '{said.type}', {_subject(said)}, {_journey(said)}, '{_body(said)}')"
        for said in SAID
        if said.service == service
    )
    return (
        f"insert into {service}.outbox(batch_id, n, part, topic, type, seq, key, ce_id, subject, ce_time,"  # noqa: S608 - ours
        " journey, payload, at)"
        " select n / 100 * 100 + what, n % 100, part, topic, type, 1,"
        " person::text, season.id(what, n, ms), subject, at, nullif(way, '')::uuid,"
        " convert_to(format(body, person, enrollment, obligation, order_id, journey, channel_ref,"
        " season.id(what, n, ms), n), 'UTF8'), at from season.citizen,"
        f" lateral (values {rows}) said(what, topic, type, subject, way, body)"
    )


def requests(service: str) -> list[str]:
    """What everybody's channel asked of the service."""
    return [
        f"insert into {service}.request(partner, request_id, command, digest, answer, key, at)"  # noqa: S608 - ours
        f" select 'wechat', '{_short(said)}-' || n, '{said.about}', sha256(''),"
        f" convert_to(format('{_body(said)}', person, enrollment, obligation, order_id, journey, channel_ref,"
        f" person, n), 'UTF8'), {_key(said)}, at from season.citizen"
        for said in SAID
        if said.about and said.service == service
    ]


def inboxes(reader: str) -> list[str]:
    """What the reader has handled: all that was said to it, except on a compacted topic."""
    heard = [
        said.number
        for said in SAID
        if (on := READERS[reader].by_type.get(said.type)) is not None and not on.compacted
    ]
    return [
        f"insert into {reader}.inbox select season.id(what, n, ms) from season.citizen,"  # noqa: S608 - ours
        f" unnest(array{heard}) what"
    ]


def steps() -> list[str]:
    """What the console keeps of it: as its own rules make it of the contract's sample."""
    rows = []
    for said in SAID:
        if said.type not in BY_TYPE:
            continue
        kept = _kept(said)
        ids = (
            (kept.person_id, "person"), (kept.enrollment_id, "enrollment"),
            (kept.obligation_id, "obligation"), (kept.order_id, "order_id"),
        )  # fmt: skip
        rows.append(
            f"({said.number}, '{said.type}', '{said.topic}', {'journey' if kept.journey else _NOTHING}, "
            + ", ".join(column if there else "null::uuid" for there, column in ids)
            + f", {_ref(said, kept)},"
            f" replace('{json.dumps(kept.about)}', '{_NUMBER}', n::text)::jsonb)"
        )
    return [
        "insert into console.step select season.id(what, n, ms), at, type, topic, part, n / 4, way,"  # noqa: S608 - ours
        " p, e, o, r, ref, about from season.citizen,"
        f" lateral (values {', '.join(rows)}) kept(what, type, topic, way, p, e, o, r, ref, about)"
    ]


def _kept(said: Said) -> Step:
    """A step of somebody whose ids are the sample's."""
    place = Place("", "2025-01-01T00:00:00Z", said.type, said.topic, 0, 0)
    if not said.about:
        return step(convert(json.loads(_sample(said)), CONTRACTS[said.type].message), place)
    text = _RESULTS[said.about]
    for number in range(1, 5):
        text = text.replace(f"%{number}$s", f"{_SAMPLE_ID}{number}")
    answer = Accepted(
        request_id=f"{_short(said)}-{_NUMBER}",
        command=said.about,
        answered_at=datetime(2025, 1, 1, tzinfo=UTC),
        result=json.loads(text),
    )
    return answered(answer, place, key="" if said.about == _ANSWERED[0][1] else f"{_SAMPLE_ID}1")


def _sample(said: Said) -> str:
    text = (_SAMPLES / f"{said.type}.json").read_text(encoding="utf-8")
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))


def _body(said: Said) -> str:
    """As a format: the sample's ids are the person's."""
    if said.about:
        return (
            f'{{"outcome":"ACCEPTED","request_id":"{_short(said)}-%8$s","command":"{said.about}",'
            f'"answered_at":"2024-12-20T04:00:00Z","result":{_RESULTS[said.about]}}}'
        )
    text = _sample(said).replace("%", "%%").replace(_SAMPLE_ID.replace("-", "") + "2", "%5$s")
    for number in range(1, 5):
        text = text.replace(f"{_SAMPLE_ID}{number}", f"%{number}$s")
    return text.replace("4200002024110501", "%6$s").replace(f"{_SAMPLE_ID}5", "%7$s").replace("'", "''")


def _journey(said: Said) -> str:
    return "''" if said.about or said.type == _LIFE[0] else "journey"


def _subject(said: Said) -> str:
    if said.about:
        return f"'{_short(said)}-' || n"
    field = CONTRACTS[said.type].subject.removesuffix("_id")
    return f"{field}::text" if field in ("person", "enrollment", "obligation") else "order_id::text"


def _ref(said: Said, kept: Step) -> str:
    if said.about:
        return f"'{_short(said)}-' || n"
    return "channel_ref" if kept.channel_ref else _NOTHING


def _short(said: Said) -> str:
    return said.about.split(".")[1].partition("_")[0]


def _key(said: Said) -> str:
    return f"'{_short(said)}-' || n" if said.about == _ANSWERED[0][1] else "person::text"

"""What is shown of a fact, in which words, and in which stage does it count?"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from msgspec import Struct, to_builtins

from contracts import billing, enrollment, notify, operations, payment
from contracts.answers import ANSWER_TYPES, Accepted, Answer, Rejected
from contracts.message import contract_of
from contracts.reasons import Reason

CHINA = timezone(timedelta(hours=8))


class Place(Struct, frozen=True, gc=False):
    """Which record a fact came in. time: ce_time as it was written, a business instant."""

    ce_id: str
    time: str
    type: str
    topic: str
    part: int
    record_offset: int


class Step(Struct, frozen=True, gc=False):
    """One published fact, or one answer. channel_ref: the partner's own number of the payment or request."""

    ce_id: str
    at: datetime
    type: str
    topic: str
    part: int
    record_offset: int
    journey: str
    person_id: str | None
    enrollment_id: str | None
    obligation_id: str | None
    order_id: str | None
    channel_ref: str
    about: dict[str, Any]


class Person(Struct, frozen=True, gc=False):
    """Who a timeline is about. at: when this version was said."""

    person_id: str
    region_code: str
    name_masked: str
    at: datetime
    sequence: int


class Words(Struct, frozen=True):
    """How a fact is shown. stage: where it counts on the front page, or "". shown: the fields that are shown;
    what is not named here is not kept."""

    zh: str
    en: str
    stage: str
    shown: tuple[str, ...]


# The stages of the front page, in a citizen's order. Registered people are counted apart.
STAGES: Mapping[str, tuple[str, str]] = {
    "registered": ("注册", "registered"),
    "submitted": ("参保登记", "submitted"),
    "approved": ("审核通过", "approved"),
    "turned_down": ("退回或不予", "returned or rejected"),
    "billed": ("核定缴费单", "billed"),
    "waived": ("免缴", "nothing due"),
    "paid": ("缴费入账", "paid"),
    "suspense": ("待处理款项", "in suspense"),
    "settled": ("缴清", "bill settled"),
    "covered": ("待遇生效", "covered"),
    "told": ("已通知", "told"),
    "parked": ("待修复", "parked"),
}
_CASE = ("region_code", "scheme", "insurance_year")
_TOLD = ("template", "road", "to_masked")

WORDS: Mapping[type[Struct], Words] = {
    enrollment.PersonIdentified: Words(
        "渠道已核实身份", "identified by the channel", "", ("region_code", "channel_code")
    ),
    enrollment.EnrollmentSubmitted: Words(
        "已受理参保登记", "application taken in", "submitted", (*_CASE, "channel_code", "categories")
    ),
    enrollment.EnrollmentApproved: Words(
        "审核通过", "approved by the agency", "approved", (*_CASE, "categories")
    ),
    enrollment.EnrollmentReturned: Words(
        "退回补正", "returned for correction", "turned_down", (*_CASE, "reasons")
    ),
    enrollment.EnrollmentRejected: Words("不予参保", "rejected", "turned_down", (*_CASE, "reasons")),
    enrollment.CoverageWaiting: Words(
        "待遇待生效", "cover set", "", (*_CASE, "starts_on", "ends_on", "because")
    ),
    enrollment.CoverageActivated: Words("待遇生效", "covered", "covered", (*_CASE, "starts_on", "ends_on")),
    billing.BillIssued: Words(
        "已核定缴费单",
        "bill issued",
        "billed",
        ("version", "due_fen", "subsidy_fen", "category", "closes_on", "policy"),
    ),
    billing.BillWaived: Words(
        "个人免缴", "nothing due", "waived", ("version", "subsidy_fen", "category", "policy")
    ),
    billing.BillSettled: Words("缴费单已缴清", "bill settled", "settled", ("version", "paid_fen", "paid_at")),
    payment.PaymentSettled: Words(
        "缴费已入账", "payment posted", "paid", ("amount_fen", "channel_code", "channel_ref", "paid_at")
    ),
    payment.FundsUnmatched: Words(
        "款项待处理", "money in suspense", "suspense", ("amount_fen", "channel_code", "channel_ref", "reason")
    ),
    notify.NotificationSent: Words("已通知本人", "told", "told", (*_TOLD, "attempts")),
    notify.NotificationFailed: Words("通知未送达", "could not be told", "", (*_TOLD, "reason")),
    operations.MessageParked: Words(
        "消息待修复", "message parked", "parked", ("service", "parked_id", "reason", "type", "source")
    ),
    operations.MessageRedriven: Words(
        "消息已重放", "message redriven", "", ("service", "parked_id", "operator")
    ),
    operations.ServiceHalted: Words("服务已停", "service halted", "", ("service", "failures", "handled")),
    operations.ServiceResumed: Words("服务已恢复", "service resumed", "", ("service", "operator")),
}
# What a partner was told. Of a refusal neither what was expected nor what came is kept.
_ANSWERS: Mapping[type[Answer], Words] = {
    Accepted: Words("已受理请求", "request accepted", "", ("command", "partner", "request_id")),
    Rejected: Words(
        "未受理请求", "request refused", "", ("command", "partner", "request_id", "reason", "field")
    ),
}
BY_TYPE: Mapping[str, Words] = {
    **{contract_of(fact).type: words for fact, words in WORDS.items()},
    **{ANSWER_TYPES[answer]: words for answer, words in _ANSWERS.items()},
}
_PERSONAL = re.compile(r"\d{17}[\dXx]|1\d{10}")  # an ID number, a phone
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LABELS: Mapping[str, tuple[str, str]] = {
    "region_code": ("统筹区", "region"),
    "scheme": ("险种", "scheme"),
    "insurance_year": ("年度", "year"),
    "channel_code": ("渠道", "channel"),
    "categories": ("类别", "categories"),
    "reasons": ("原因", "reasons"),
    "reason": ("原因", "reason"),
    "starts_on": ("起", "from"),
    "ends_on": ("止", "to"),
    "because": ("依据", "because"),
    "version": ("版本", "version"),
    "due_fen": ("应缴", "due"),
    "subsidy_fen": ("财政补助", "subsidy"),
    "category": ("类别", "category"),
    "closes_on": ("缴费截止", "closes"),
    "policy": ("政策", "policy"),
    "paid_fen": ("实缴", "paid"),
    "amount_fen": ("金额", "amount"),
    "paid_at": ("支付时间", "paid at"),
    "channel_ref": ("渠道流水号", "transaction"),
    "template": ("模板", "template"),
    "road": ("方式", "road"),
    "to_masked": ("发往", "to"),
    "attempts": ("次数", "attempts"),
    "service": ("服务", "service"),
    "parked_id": ("编号", "number"),
    "type": ("消息类型", "type"),
    "source": ("来源", "source"),
    "operator": ("操作员", "operator"),
    "failures": ("失败", "failures"),
    "handled": ("处理", "handled"),
    "command": ("请求", "command"),
    "partner": ("发送方", "partner"),
    "request_id": ("请求号", "request"),
    "field": ("字段", "field"),
}


def is_personal(wanted: str) -> bool:
    """Whether somebody looks for an ID number or a phone: those are stored sealed and find nobody."""
    return _PERSONAL.fullmatch(wanted.strip()) is not None


def person(fact: enrollment.PersonRecorded, sequence: int, time: str) -> Person:
    """What everybody may see of a person."""
    return Person(fact.person_id, fact.region_code, fact.name_masked, datetime.fromisoformat(time), sequence)


def step(fact: Struct, place: Place) -> Step:
    """A fact as a row: its ids, and of the rest what is shown."""
    about = {name: getattr(fact, name) for name in WORDS[type(fact)].shown}
    return Step(
        place.ce_id,
        datetime.fromisoformat(place.time),
        place.type,
        place.topic,
        place.part,
        place.record_offset,
        getattr(fact, "journey", ""),
        _id(fact, "person_id"),
        _id(fact, "enrollment_id"),
        _id(fact, "obligation_id"),
        _id(fact, "order_id"),
        getattr(fact, "channel_ref", ""),
        to_builtins(about),
    )


def answered(answer: Accepted | Rejected, place: Place, *, key: str) -> Step:
    """An answer as a row. key: of its record; whom it is about, where the result does not say so.

    Ids in it may be a partner's own words: what is no id of ours is left out.
    """
    result = answer.result if isinstance(answer, Accepted) else {}
    about = {
        "command": answer.command,
        "partner": place.topic.split(".")[-2],
        "request_id": answer.request_id,
    }
    if isinstance(answer, Rejected):
        about |= {"reason": answer.refusal.code, "field": answer.refusal.field}
    ids = {name: _ours(result.get(f"{name}_id")) for name in ("person", "enrollment", "obligation", "order")}
    return Step(
        place.ce_id,
        datetime.fromisoformat(place.time),
        place.type,
        place.topic,
        place.part,
        place.record_offset,
        (ids["enrollment"] or "").replace("-", ""),
        ids["person"] or _ours(key),
        ids["enrollment"],
        ids["obligation"],
        ids["order"],
        answer.request_id,
        about,
    )


def said_by(topic: str, about: Mapping[str, Any]) -> str:
    """The service that said it: the topic's, of an answer the one that was asked."""
    return str(about.get("command", topic)).partition(".")[0]


def title(type_name: str) -> tuple[str, str]:
    """What a type is called, in Chinese and English; the type itself when it is none of ours."""
    words = BY_TYPE.get(type_name)
    return (words.zh, words.en) if words else (type_name, type_name)


def details(type_name: str, about: Mapping[str, Any]) -> str:
    """What is known of a fact, for people: yuan with fen, instants in +08:00, reasons in words."""
    words = BY_TYPE.get(type_name)
    told = (
        (name, about[name])
        for name in (words.shown if words else about)
        if about.get(name) not in ("", [], None)
    )
    return "；".join(f"{' '.join(LABELS.get(name, (name,)))} {shown(name, value)}" for name, value in told)


def shown(name: str, value: Any) -> str:
    """One value for people, by the name of its field."""
    if name.endswith("_fen"):
        return yuan(value)
    if name.endswith("_at"):
        return instant(datetime.fromisoformat(value))
    if name == "command":
        return str(value).split(".")[1].replace("_", " ")
    if name in ("reason", "reasons"):
        return "、".join(_reason(code) for code in ([value] if isinstance(value, str) else value))
    return "、".join(map(str, value)) if isinstance(value, list) else str(value)


def yuan(fen: int) -> str:
    """40000 is 400.00元."""
    sign = "-" if fen < 0 else ""
    return f"{sign}{abs(fen) // 100:,}.{abs(fen) % 100:02d}元"


def instant(at: datetime) -> str:
    """An instant on Chinese clocks, to the second, with its zone."""
    return at.astimezone(CHINA).isoformat(" ", "seconds")


def _reason(code: str) -> str:
    return f"{Reason[code].zh}（{code}）" if code in Reason.__members__ else code


def _ours(value: object) -> str | None:
    return value if isinstance(value, str) and _UUID.fullmatch(value) else None


def _id(fact: Struct, name: str) -> str | None:
    return getattr(fact, name, "") or None

"""In which words is a fact told? Templates as data, and what of each fact fills their holes."""

from zoneinfo import ZoneInfo

from contracts.billing import BillIssued, BillWaived
from contracts.enrollment import CoverageActivated, EnrollmentRejected, EnrollmentReturned
from contracts.partners import PARTNERS
from contracts.payment import FundsUnmatched, PaymentSettled
from contracts.reasons import Reason

CHINA = ZoneInfo("Asia/Shanghai")

# Words as data: template → subject of the mail, text. The SMS provider holds the same texts under these
# codes; an
# approved text never changes, so template and params say for ever what somebody was told. Each names the
# hotline
# (domain N4), none holds a link (F5), and with the sender's sign each fits one SMS of 70 characters.
TEMPLATES: dict[str, tuple[str, str]] = {
    "bill_issued": (
        "医保参保审核通过，请缴费",
        "{name}：您{year}年度居民医保参保审核通过，请于{by}前缴费{amount}元。咨询{hotline}",
    ),
    "bill_waived": (
        "医保参保审核通过，无需缴费",
        "{name}：您{year}年度居民医保参保审核通过，由财政全额资助，无需缴费。咨询{hotline}",
    ),
    "enrollment_returned": (
        "医保参保登记需补正",
        "{name}：您{year}年度居民医保参保登记需补正：{why}。请补正后重新提交。咨询{hotline}",
    ),
    "enrollment_rejected": (
        "医保参保登记未通过",
        "{name}：您{year}年度居民医保参保登记未通过审核：{why}。咨询{hotline}",
    ),
    "payment_settled": (
        "医保缴费成功",
        "{name}：已收到您于{on}缴纳的居民医保费{amount}元，缴费成功。咨询{hotline}",
    ),
    "coverage_activated": (
        "医保待遇生效",
        "{name}：您{year}年度居民医保待遇已生效，期间{starts}至{ends}。咨询{hotline}",
    ),
    "funds_unmatched": (
        "医保缴费未入账",
        "{name}：{channel}收到的{amount}元未能入账（{why}），将原路退回。咨询{hotline}",
    ),
}

# What an agency's reason codes mean to a citizen. An unknown one is not guessed at.
REVIEW_REASONS = {
    "DOC_MISSING": "材料不全",
    "DOC_UNREADABLE": "材料不清晰",
    "DOC_INVALID": "材料无效",
    "COVERED_ELSEWHERE": "已在其他地区参保",
    "NOT_RESIDENT": "非本地居民",
}
ASK = "详情请咨询经办机构"

Told = (
    BillIssued
    | BillWaived
    | EnrollmentReturned
    | EnrollmentRejected
    | PaymentSettled
    | CoverageActivated
    | FundsUnmatched
)


def yuan(fen: int) -> str:
    """400.00: how people read an amount."""
    return f"{fen // 100}.{fen % 100:02d}"


def words(fact: Told) -> tuple[str, dict[str, str]]:
    """What a fact says to a citizen: the template and what fills its holes, without name and hotline."""
    match fact:
        case BillIssued():
            year, by = str(fact.insurance_year), fact.closes_on.isoformat()
            return "bill_issued", {"year": year, "by": by, "amount": yuan(fact.due_fen)}
        case BillWaived():
            return "bill_waived", {"year": str(fact.insurance_year)}
        case EnrollmentReturned():
            return "enrollment_returned", {"year": str(fact.insurance_year), "why": _because(fact.reasons)}
        case EnrollmentRejected():
            return "enrollment_rejected", {"year": str(fact.insurance_year), "why": _because(fact.reasons)}
        case PaymentSettled():
            on = fact.paid_at.astimezone(CHINA).date().isoformat()
            return "payment_settled", {"on": on, "amount": yuan(fact.amount_fen)}
        case CoverageActivated():
            starts, ends = fact.starts_on.isoformat(), fact.ends_on.isoformat()
            return "coverage_activated", {"year": str(fact.insurance_year), "starts": starts, "ends": ends}
        case _:
            partner = PARTNERS.get(fact.channel_code)
            channel = partner.name_zh if partner else fact.channel_code
            why = Reason[fact.reason].zh
            return "funds_unmatched", {"channel": channel, "amount": yuan(fact.amount_fen), "why": why}


def _because(codes: list[str]) -> str:
    """The first reason; an SMS has no room for more."""
    return REVIEW_REASONS.get(codes[0], ASK) if codes else ASK

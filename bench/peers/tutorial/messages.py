"""What does the tutorial's peer read and write? The contracts' fields as models, and two tables that
ours keep without a model.
"""

from datetime import date, datetime
from typing import Any

from sqlalchemy import Uuid
from sqlmodel import Field, SQLModel

SUBMIT, REVIEW = "enrollment.submit_enrollment.v1", "enrollment.review_decision.v1"
REPORT, ACCEPTED = "payment.report_payment.v1", "answer.accepted.v1"
SUBMITTED, APPROVED = "enrollment.enrollment_submitted.v1", "enrollment.enrollment_approved.v1"
ACTIVATED, ISSUED = "enrollment.coverage_activated.v1", "billing.bill_issued.v1"
SETTLED, PAID = "billing.bill_settled.v1", "payment.payment_settled.v1"


class SubmitEnrollment(SQLModel):
    request_id: str
    person_id: str
    region_code: str
    scheme: str
    insurance_year: int
    categories: list[str] = []
    submitted_by: str = "self"


class ReviewDecision(SQLModel):
    request_id: str
    person_id: str
    enrollment_id: str
    decision: str
    officer: str
    decided_at: datetime
    categories: list[str] = []


class ReportPayment(SQLModel):
    request_id: str
    person_id: str
    obligation_id: str
    insurance_year: int
    amount_fen: int
    channel_ref: str
    paid_at: datetime


class Case(SQLModel):
    journey: str
    region_code: str
    person_id: str
    enrollment_id: str


class EnrollmentSubmitted(Case):
    scheme: str
    insurance_year: int
    channel_code: str
    categories: list[str]
    submitted_at: datetime


class EnrollmentApproved(Case):
    scheme: str
    insurance_year: int
    categories: list[str]
    decided_at: datetime


class CoverageActivated(Case):
    scheme: str
    insurance_year: int
    starts_on: date
    ends_on: date


class BillIssued(Case):
    obligation_id: str
    version: int
    scheme: str
    insurance_year: int
    item: str
    category: str
    lines: list[dict[str, Any]]
    due_fen: int
    subsidy_fen: int
    closes_on: date
    policy: str
    explanation: list[str]


class BillSettled(Case):
    obligation_id: str
    version: int
    order_id: str
    paid_fen: int
    paid_at: datetime


class PaymentSettled(Case):
    obligation_id: str
    version: int
    order_id: str
    item: int
    amount_fen: int
    channel_code: str
    channel_ref: str
    paid_at: datetime
    posted_at: datetime


class Accepted(SQLModel):
    outcome: str = "ACCEPTED"
    request_id: str
    command: str
    answered_at: datetime
    result: dict[str, str]


class Request(SQLModel, table=True):
    """A command that was answered."""

    partner: str = Field(primary_key=True)
    request_id: str = Field(primary_key=True)
    command: str
    digest: bytes
    answer: bytes
    key: str


class Call(SQLModel, table=True):
    """An SMS that waits for its gateway."""

    id: str = Field(sa_type=Uuid, primary_key=True)
    number: str
    type: str
    payload: bytes
    journey: str = Field(sa_type=Uuid)

"""Who appears in tests? A few people with fixed data, and what is said about them."""

from datetime import UTC, datetime

from msgspec import Struct

from contracts.billing import BillSettled, BillWaived, QueryBill
from contracts.enrollment import (
    EnrollmentApproved,
    PersonIdentified,
    RegisterAccount,
    Registration,
    ReviewDecision,
    SubmitEnrollment,
)
from contracts.message import EnrollmentId, ObligationId, OrderId, PersonId, Sealed
from contracts.payment import PaymentSettled

REGION, YEAR, AGENCY = "990100", 2025, "990100"      # a prefix of GB/T 2260 that no place has


def instant(text: str) -> datetime:
    """An instant written with its offset, in UTC as the database gives it back."""
    return datetime.fromisoformat(text).astimezone(UTC)


class Citizen(Struct, frozen=True, kw_only=True):
    """Somebody with an account, an application and an obligation. number makes all ids."""

    number: int
    name: str
    id_number: str
    phone: str
    email: str = ""

    def _id(self, kind: int) -> str:
        return f"0193d000-0000-7000-8000-{kind:04x}{self.number:08x}"

    @property
    def person_id(self) -> PersonId:
        return PersonId(self._id(1))

    @property
    def enrollment_id(self) -> EnrollmentId:
        return EnrollmentId(self._id(2))

    @property
    def obligation_id(self) -> ObligationId:
        return ObligationId(self._id(3))

    @property
    def order_id(self) -> OrderId:
        return OrderId(self._id(4))

    @property
    def journey(self) -> str:
        """The trace of this application."""
        return self.enrollment_id.replace("-", "")

    @property
    def registration(self) -> Registration:
        """What a channel asserts about this person."""
        return Registration(id_kind="RESIDENT_ID", name=self.name, id_number=self.id_number, phone=self.phone,
                            email=self.email)

    # What partners send

    def registers(self, sealed: Sealed[Registration], *, request_id: str) -> RegisterAccount:
        """sealed: for enrollment, at this request_id."""
        return RegisterAccount(request_id=request_id, region_code=REGION, registration=sealed)

    def submits(
        self, *categories: str, request_id: str = "submit", region: str = REGION, scheme: str = "RESIDENT",
        year: int = YEAR, by: str = "self",
    ) -> SubmitEnrollment:
        """An application."""
        return SubmitEnrollment(
            request_id=request_id, person_id=self.person_id, region_code=region, scheme=scheme,
            insurance_year=year, categories=list(categories), submitted_by=by,
        )

    def decided(
        self, decision: str, *categories: str, request_id: str = "review", officer: str = "officer-7",
        at: str = "2024-12-20T11:00+08:00", reasons: tuple[str, ...] = (),
    ) -> ReviewDecision:
        """What the agency says about the application."""
        return ReviewDecision(
            request_id=request_id, person_id=self.person_id, enrollment_id=self.enrollment_id,
            decision=decision, officer=officer, decided_at=instant(at), categories=list(categories),
            reasons=list(reasons),
        )

    def asks_for_bill(self, *, request_id: str = "query", year: int = YEAR) -> QueryBill:
        """What do I owe?"""
        return QueryBill(request_id=request_id, person_id=self.person_id, insurance_year=year)

    # What services say

    def identified(self, channel: str) -> PersonIdentified:
        """The channel knows this person."""
        return PersonIdentified(region_code=REGION, person_id=self.person_id, channel_code=channel)

    def approved(
        self, *categories: str, at: str = "2024-12-20T11:00+08:00", year: int = YEAR
    ) -> EnrollmentApproved:
        """The agency took the person in."""
        return EnrollmentApproved(
            journey=self.journey, region_code=REGION, person_id=self.person_id,
            enrollment_id=self.enrollment_id, scheme="RESIDENT", insurance_year=year,
            categories=list(categories), decided_at=instant(at),
        )

    def payment_settled(
        self, *, fen: int = 40_000, at: str = "2024-12-21T09:30+08:00", version: int = 1
    ) -> PaymentSettled:
        """Money was posted to the obligation."""
        return PaymentSettled(
            journey=self.journey, region_code=REGION, person_id=self.person_id,
            enrollment_id=self.enrollment_id, obligation_id=self.obligation_id, version=version,
            order_id=self.order_id, item=0, amount_fen=fen, channel_code="wechat",
            channel_ref=f"4200{self.number}", paid_at=instant(at), posted_at=instant(at),
        )

    def bill_settled(self, *, fen: int = 40_000, at: str = "2024-12-21T09:30+08:00") -> BillSettled:
        """The obligation is paid."""
        return BillSettled(
            journey=self.journey, region_code=REGION, person_id=self.person_id,
            enrollment_id=self.enrollment_id, obligation_id=self.obligation_id, version=1,
            order_id=self.order_id, paid_fen=fen, paid_at=instant(at),
        )

    def bill_waived(self, *, category: str = "orphan", at: str = "2024-12-20T11:01+08:00") -> BillWaived:
        """Nothing is due."""
        return BillWaived(
            journey=self.journey, region_code=REGION, person_id=self.person_id,
            enrollment_id=self.enrollment_id, obligation_id=self.obligation_id, version=1, scheme="RESIDENT",
            insurance_year=YEAR, category=category, subsidy_fen=107_000, policy="demo-2025/1",
            waived_at=instant(at),
        )


LI_NA = Citizen(number=1, name="李娜", id_number="990100199003072428", phone="19900000001")
# 低保 and 重残
WANG_JUN = Citizen(number=2, name="王军", id_number="990100196811230013", phone="19900000002")
# 孤儿
ZHAO_XIAOYU = Citizen(number=3, name="赵小雨", id_number="99010020160601004X", phone="19900000003")
AYGUL = Citizen(number=4, name="阿依古丽·买买提", id_number="990100199510011267", phone="19900000004",
                email="aygul@city.example")
ZHANG_WEI = Citizen(number=5, name="张伟", id_number="990100200001010050", phone="19900000005")

"""How long does it take a good citizen, while others send rubbish? From registering to settled, at a bank."""

import asyncio
import time
from random import Random
from typing import Any, NamedTuple

from contracts.answers import Accepted
from contracts.billing import QueryBill
from contracts.enrollment import Identity, RegisterAccount, Registration, ReviewDecision, SubmitEnrollment
from contracts.message import PersonId
from contracts.payment import ReportPayment
from sandbox.partner import Partner
from sandbox.people import REGION, check_digit

_YEAR = 2025
_LOOK_SECONDS, _PATIENCE_SECONDS = 0.1, 60.0


class Way(NamedTuple):
    """A citizen's. seconds: from her registration until her money was settled."""

    seconds: float
    person_id: str
    obligation_id: str


async def journey(bank: Partner, agency: Partner, random: Random, name: str) -> Way:
    """All of it. AssertionError: something else came of it.

    name: begins her request ids; nobody has used it before.
    """
    began = time.monotonic()
    first_17 = f"{REGION}19{random.randint(50, 99)}0203{random.randint(0, 999):03}"
    who = Registration(
        id_kind="RESIDENT_ID", name="郝公民", id_number=first_17 + check_digit(first_17), phone="19812345678"
    )
    sealed: Any = bank.keys.seal(who, reader="enrollment", place=f"{name}-1")
    account = await bank.ask(RegisterAccount(request_id=f"{name}-1", region_code=REGION, registration=sealed))
    person = PersonId(
        account.result["person_id"] if isinstance(account, Accepted) else account.refusal.expected
    )
    applied = await _said(
        bank,
        SubmitEnrollment(
            request_id=f"{name}-2",
            person_id=person,
            region_code=REGION,
            scheme="RESIDENT",
            insurance_year=_YEAR,
        ),
    )
    decision = ReviewDecision(
        request_id=f"{name}-3", person_id=person, enrollment_id=applied["enrollment_id"], decision="APPROVE",
        officer="officer-7", decided_at=agency.now(),
    )
    await _said(agency, decision)
    bill = await _bill(bank, person, name)
    saw: Any = bank.keys.seal(
        Identity(name=who.name, id_number=who.id_number), reader="payment", place=f"{name}-pay"
    )
    paid = await _said(
        bank,
        ReportPayment(
            request_id=f"{name}-4",
            person_id=person,
            obligation_id=bill["obligation_id"],
            insurance_year=_YEAR,
            amount_fen=bill["due_fen"],
            channel_ref=f"{name}-pay",
            paid_at=bank.now(),
            method="CARD",
            payer_saw=saw,
        ),
    )
    assert paid["status"] == "SETTLED", paid
    return Way(time.monotonic() - began, person, bill["obligation_id"])


async def _bill(bank: Partner, person: PersonId, name: str) -> dict[str, Any]:
    """Her bill, once it is there."""
    end, number = time.monotonic() + _PATIENCE_SECONDS, 0
    while True:
        query = QueryBill(request_id=f"{name}-q{number}", person_id=person, insurance_year=_YEAR)
        answer = await bank.ask(query)
        if isinstance(answer, Accepted):
            return answer.result
        assert time.monotonic() < end, answer
        assert answer.refusal.retryable, answer
        number += 1
        await asyncio.sleep(_LOOK_SECONDS)  # a refusal said: again later


async def _said(partner: Partner, command: Any) -> dict[str, Any]:
    answer = await partner.ask(command)
    assert isinstance(answer, Accepted), answer
    return answer.result

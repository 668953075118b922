"""How does mischief reach the topics? Garbage, forgeries and blunders, noted by where they stand."""

import asyncio
import time
from typing import Any

import msgspec

from contracts.answers import Accepted, Rejected, says_again
from contracts.enrollment import Identity, Registration, SubmitEnrollment
from contracts.message import Sealed, contract_of
from contracts.payment import ReportPayment
from sandbox import blunders, mischief
from sandbox.city import Citizen, City, Step
from sandbox.expected import Picture
from sandbox.forger import forge
from sandbox.partner import PATIENCE_SECONDS, Answer, Partner

PAUSE_SECONDS = 0.02        # between two pieces of garbage, so that they meet many batches
EARLY_SECONDS = 0.5         # a service that has not heard of the citizen yet is asked again


class Nuisance:
    """planted: what must come of it, by the records' places. refused: what the blunders were answered.

    forged: the places of forged records.
    """

    def __init__(self, city: City, partners: dict[str, Partner], run: str) -> None:
        self._city, self._partners, self._run = city, partners, run
        self._forgeries: dict[tuple[int, str], list[mischief.Forgery]] = {}
        for forgery in city.forgeries:
            self._forgeries.setdefault((forgery.victim, forgery.step), []).append(forgery)
        self.planted = Picture()
        self.refused: set[tuple[str, str]] = set()
        self.forged: set[str] = set()

    async def trouble(self, first: "asyncio.Future[tuple[Citizen, str]]") -> None:
        """Garbage all along, then the blunders, once there is somebody (and his person_id) to blunder about.
        """
        for piece in self._city.garbage:
            await self._plant_garbage(piece)
            await asyncio.sleep(PAUSE_SECONDS)
        citizen, person_id = await first
        await asyncio.gather(*(self._blunder(blunder, citizen, person_id) for blunder in self._city.blunders))

    async def forge_application(self, citizen: Citizen, application: SubmitEnrollment) -> None:
        """Somebody applies in a citizen's name, as an orphan, if the plan says so; before the citizen does.
        """
        for forgery in self._forgeries.get((citizen.number, "submit"), ()):
            content = msgspec.to_builtins(application) | {
                "request_id": f"{self._run}-forged-{forgery.number}", "categories": ["orphan"],
            }
            partner = self._partners[citizen.channel]
            await self._plant_forgery(forgery, partner, SubmitEnrollment, content)

    async def forge_payment(self, citizen: Citizen, person_id: str, bill: dict[str, Any], year: int) -> None:
        """Somebody claims that a citizen has paid, if the plan says so; before the citizen does."""
        bank = self._partners["bank"]
        for forgery in self._forgeries.get((citizen.number, "report"), ()):
            ref = f"{self._run}-forged-{forgery.number}"
            saw: Sealed[Identity] = bank.keys.seal(
                Identity(name=citizen.who.name, id_number=citizen.who.id_number), reader="payment", place=ref
            )
            claim = ReportPayment(
                request_id=ref, person_id=person_id, obligation_id=bill["obligation_id"], insurance_year=year,
                amount_fen=bill["due_fen"], channel_ref=ref, paid_at=bank.now(), method="CARD", payer_saw=saw,
            )
            await self._plant_forgery(forgery, bank, ReportPayment, msgspec.to_builtins(claim))

    async def _plant_forgery(
        self, forgery: mischief.Forgery, partner: Partner, kind: type[msgspec.Struct], content: dict[str, Any]
    ) -> None:
        thief = self._partners["alipay" if partner.who.code != "alipay" else "wechat"]
        letter = forge(
            forgery.kind, partner, thief, type_name=contract_of(kind).type, key=content["person_id"],
            body=msgspec.json.encode(content),
        )
        place = str(await partner.post(letter))
        self.forged.add(place)
        self.planted.forged[f"{place} SIGNATURE_INVALID"] += 1

    async def _plant_garbage(self, piece: mischief.Garbage) -> None:
        partner = self._partners[piece.partner]
        letter = partner.signed(mischief.type_of(piece), f"garbage-{piece.number}", mischief.body_of(piece))
        headers = mischief.headers_of(piece, [(name, value or b"") for name, value in letter.headers])
        self.planted.parked[str(await partner.post(letter._replace(headers=headers)))] += 1

    async def _blunder(self, blunder: blunders.Blunder, citizen: Citizen, person_id: str) -> None:
        partner = self._partners[blunder.channel or citizen.channel]
        # a request id that said something else before
        taken = f"{self._run}-{citizen.number}-{Step.SUBMIT.value}"
        request_id = taken if blunder.reuses_id else f"{self._run}-{blunder.label.replace(' ', '-')}"

        def seal(registration: dict[str, str], place: str) -> Any:
            closed: Sealed[Registration] = partner.keys.seal(
                Registration(**registration), reader="enrollment", place=place
            )
            return msgspec.to_builtins(closed)

        self.planted.refused.add((blunder.label, blunder.reason))
        body = blunders.body_of(blunder, request_id=request_id, person_id=person_id, seal=seal)
        key = msgspec.json.decode(body).get("person_id", request_id)
        deadline = time.monotonic() + (partner.tries - 2) * PATIENCE_SECONDS
        answer: Answer | None = None
        while answer is None or _came_early(answer, blunder):
            await asyncio.sleep(EARLY_SECONDS if answer else 0)
            try:
                answer = await partner.ask_raw(request_id, [partner.signed(blunder.type, key, body)])
            except TimeoutError:
                pass
            if time.monotonic() > deadline:
                break
        if answer is None:
            self.refused.add((blunder.label, "no answer"))
            return
        self.refused.add((blunder.label, answer.refusal.code if isinstance(answer, Rejected) else "ACCEPTED"))


def _came_early(answer: Answer, blunder: blunders.Blunder) -> bool:
    """Whether the refusal says "try again" for another reason than the blunder's own, or it is the first
    answer under the same request id, said once more.
    """
    if blunder.reuses_id and isinstance(answer, Accepted):
        return True
    return isinstance(answer, Rejected) and says_again(answer) and answer.refusal.code != blunder.reason

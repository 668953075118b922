"""Who is outside? A provider that takes money, one that sends texts, and mail; each answers, or does not."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

from msgspec import Struct

from services.chassis.calls import NotSent, Unknown
from services.notify.rules import MailTaken, SendMail, SendRefused, SendSms, SmsTaken
from services.payment.rules import AskOrder, OrderPlaced, OrderState, PlaceOrder, ProviderPaid
from tests.simulation.schedule import Schedule

SURELY_NOT, SILENT, SILENT_DONE, NO = "surely not", "silent", "silent, done", "no"


class Purse(Struct):
    """An order as the provider holds it."""

    order: PlaceOrder
    paid_at: datetime | None = None
    transaction_id: str = ""


class Provider:
    """WeChat-shaped: orders by number, paid once, asked at any time."""

    def __init__(self, schedule: Schedule, now: Callable[[], datetime]) -> None:
        self._schedule, self._now = schedule, now
        self.orders: dict[str, Purse] = {}

    async def send(self, actor: str, request: PlaceOrder | AskOrder) -> Struct:
        """Place an order, or tell what became of one."""
        if isinstance(request, PlaceOrder) and request.order_no in self.orders:
            _unasked(self._schedule, actor, request.order_no)
        fault = await self._schedule.gate(actor, f"send {type(request).__name__}",
                                          (SURELY_NOT, SILENT, SILENT_DONE))
        _fail_before(fault)
        if isinstance(request, AskOrder):
            answer: Struct = self._state(request)
        else:
            self.orders.setdefault(request.order_no, Purse(request))
            answer = self._placed(request)
        if fault == SILENT_DONE:
            raise Unknown("simulated")
        return answer

    async def ask(self, actor: str, request: PlaceOrder | AskOrder) -> Struct | None:
        """None: it never heard of it."""
        fault = await self._schedule.gate(actor, f"ask {type(request).__name__}", (SILENT,))
        _fail_before(fault)
        if isinstance(request, AskOrder):
            return self._state(request)
        return self._placed(request) if request.order_no in self.orders else None

    def pay(self, order_no: str, transaction_id: str) -> ProviderPaid | None:
        """The payer pays; what the provider will say. None: it was too late."""
        purse = self.orders.get(order_no)
        if purse is None or purse.paid_at is not None or self._now() >= purse.order.expires_at:
            return None
        purse.paid_at, purse.transaction_id = self._now(), transaction_id
        order = purse.order
        return ProviderPaid(
            **_names(order), notice_id=f"n-{transaction_id}", state="SUCCESS", amount_fen=order.amount_fen,
            payer_fen=order.amount_fen, currency="CNY", transaction_id=transaction_id, paid_at=purse.paid_at,
        )

    def _placed(self, order: PlaceOrder) -> OrderPlaced:
        return OrderPlaced(**_names(order), amount_fen=order.amount_fen, pay_url=f"pay:{order.order_no}")

    def _state(self, asked: AskOrder) -> OrderState:
        purse = self.orders.get(asked.order_no)
        if purse is None:
            return OrderState(**_names(asked), round=asked.round, state="ABSENT")
        if purse.paid_at is not None:
            fen = purse.order.amount_fen
            return OrderState(
                **_names(asked),
                round=asked.round,
                state="SUCCESS",
                amount_fen=fen,
                payer_fen=fen,
                transaction_id=purse.transaction_id,
                paid_at=purse.paid_at,
            )
        state = "CLOSED" if self._now() >= purse.order.expires_at else "NOTPAY"
        return OrderState(**_names(asked), round=asked.round, state=state)


def _names(of: PlaceOrder | AskOrder) -> dict[str, Any]:
    return {"provider": of.provider, "order_id": of.order_id, "order_no": of.order_no,
            "person_id": of.person_id, "obligation_ids": of.obligation_ids}


class Texts:
    """SMS and mail. accepted: how often each notification went out."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.accepted: Counter[str] = Counter()

    async def send(self, actor: str, request: SendSms | SendMail) -> Struct:
        """Hand it over."""
        road = "EMAIL" if isinstance(request, SendMail) else "SMS"
        what = f"{request.notification_id} {road}"
        if self.accepted[what]:
            _unasked(self._schedule, actor, what)
        fault = await self._schedule.gate(actor, f"send {type(request).__name__}",
                                          (SURELY_NOT, SILENT, SILENT_DONE, NO))
        _fail_before(fault)
        names = {"notification_id": request.notification_id, "person_id": request.person_id}
        if fault == NO:
            return SendRefused(**names, road=road, code="LIMIT", detail="simulated", final=False)
        self.accepted[what] += 1
        if fault == SILENT_DONE:
            raise Unknown("simulated")
        return self._taken(request)

    async def ask(self, actor: str, request: SendSms | SendMail) -> Struct | None:
        """None: it never heard of it."""
        fault = await self._schedule.gate(actor, f"ask {type(request).__name__}", (SILENT,))
        _fail_before(fault)
        road = "EMAIL" if isinstance(request, SendMail) else "SMS"
        return self._taken(request) if self.accepted[f"{request.notification_id} {road}"] else None

    def _taken(self, request: SendSms | SendMail) -> Struct:
        kind = MailTaken if isinstance(request, SendMail) else SmsTaken
        return kind(notification_id=request.notification_id, person_id=request.person_id, provider_ref="r")


def _unasked(schedule: Schedule, actor: str, what: str) -> None:
    """I18: it was taken before this one began to send, who could have known it by asking. Two that are on
    their way at a time cannot.
    """
    schedule.wrong.append(f"I18 {actor} sends {what} again, and has not asked")


def _fail_before(fault: str) -> None:
    if fault == SURELY_NOT:
        raise NotSent("simulated")
    if fault == SILENT:
        raise Unknown("simulated")


class At:
    """A gateway as the calls of one member see it: the same provider for all of them."""

    def __init__(self, outside: Provider | Texts, member: str, who: Callable[[str], str]) -> None:
        self._outside, self._member, self._who = outside, member, who

    async def send(self, request: Any) -> Struct:
        """As Gateway.send."""
        return await self._outside.send(self._actor(request), request)

    async def ask(self, request: Any) -> Struct | None:
        """As Gateway.ask."""
        return await self._outside.ask(self._actor(request), request)

    def _actor(self, request: Any) -> str:
        return f"{self._member}.call.{self._who(request.person_id)}"


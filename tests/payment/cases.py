"""Who owes what in the tests of payment's rules?"""

from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from contracts.enrollment import Identity
from contracts.message import EnrollmentId, ObligationId, OrderId, PersonId
from services.payment.rules import DueStatus, Item, ItemStatus, Obligation, Order, OrderState, OrderStatus

NOW = datetime(2024, 12, 20, 2, 0, tzinfo=UTC)
LI_NA = PersonId("0190a000-0000-7000-8000-000000000001")
WANG_WEI = PersonId("0190a000-0000-7000-8000-000000000002")
HERS = ObligationId("0190b000-0000-7000-8000-000000000001")
HIS = ObligationId("0190b000-0000-7000-8000-000000000002")
THIS = OrderId("0190c000-0000-7000-8000-000000000001")
OTHER = OrderId("0190c000-0000-7000-8000-000000000002")
ENTRY = "0190d000-0000-7000-8000-000000000001"
ENTRY_2 = "0190d000-0000-7000-8000-000000000002"
CASE = EnrollmentId("0190e000-0000-7000-8000-000000000001")

DUE_400 = Obligation(HERS, LI_NA, CASE, "a" * 32, "990100", 2025, 1, 40_000, DueStatus.DUE)
SETTLED = replace(DUE_400, status=DueStatus.SETTLED, order_id=OTHER)
WAIVED = replace(DUE_400, status=DueStatus.WAIVED, due_fen=0)
LOCKED = replace(DUE_400, order_id=THIS, locked_until=NOW + timedelta(minutes=60))
HIS_DUE = replace(DUE_400, obligation_id=HIS, person_id=WANG_WEI, due_fen=12_000)
PENDING = Order(THIS, LI_NA, "wechat", "alipay", "r-1", 40_000, OrderStatus.PENDING, "", NOW, None, 0)
ITEM = Item(THIS, 0, LI_NA, HERS, 1, 40_000, ItemStatus.OPEN)
LI_NA_CARD = Identity(name="李娜", id_number="99010019900307002X")


def state(word: str, round_: int = 0, **more: Any) -> OrderState:
    """What the provider says about THIS order."""
    return OrderState(
        order_id=THIS, order_no="n", person_id=LI_NA, obligation_ids=[HERS], round=round_, state=word, **more
    )

"""Who may talk to us from outside? Channels and agencies, what each may send, and how it signs."""

from msgspec import Struct


class Partner(Struct, frozen=True, kw_only=True):
    """One partner. topic: the only one it writes. replies: the only one it reads as a channel.

    may: the command types it may send. regions: where it is enabled ("*": everywhere).
    """

    code: str
    kind: str
    name_zh: str
    may: tuple[str, ...]
    regions: tuple[str, ...] = ("*",)

    @property
    def topic(self) -> str:
        return {
            "channel": f"channels.{self.code}",
            "agency": f"agencies.{self.code}",
            "operator": "operators",
        }[self.kind]

    @property
    def replies(self) -> str:
        return f"{self.topic}.replies"

    def serves(self, region_code: str) -> bool:
        """Whether it is enabled in this region."""
        return "*" in self.regions or region_code in self.regions


_APPLY = ("enrollment.register_account.v1", "enrollment.submit_enrollment.v1", "billing.query_bill.v1")
_ONLINE = (*_APPLY, "payment.start_payment.v1")
_CASH = (*_APPLY, "payment.report_payment.v1")

PARTNERS: dict[str, Partner] = {
    partner.code: partner
    for partner in (
        Partner(code="wechat", kind="channel", name_zh="微信城市服务", may=_ONLINE),
        Partner(code="alipay", kind="channel", name_zh="支付宝市民中心", may=_ONLINE),
        Partner(code="bank", kind="channel", name_zh="银行网点", may=_CASH),
        Partner(code="counter", kind="channel", name_zh="医保经办窗口", may=_CASH),
        Partner(
            code="990100",
            kind="agency",
            name_zh="示例市医保局",
            may=("enrollment.review_decision.v1",),
            regions=("990100",),
        ),
        Partner(
            code="operators",
            kind="operator",
            name_zh="运维",
            may=(
                "any.redrive.v1",
                "any.resume.v1",
                "any.advance_clock.v1",
                "any.republish.v1",
                "any.reread.v1",
            ),
        ),
    )
}

CHANNELS = tuple(p.code for p in PARTNERS.values() if p.kind == "channel")
AGENCIES = tuple(p.code for p in PARTNERS.values() if p.kind == "agency")

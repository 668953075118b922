"""What does the payment provider's callback hear from us? Verified and kept, forged, or come again."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from contracts.reasons import Reason
from services.chassis import metrics
from services.chassis.door import Busy, Door
from services.chassis.web import NotTaken, read_body
from services.payment.gateway import MOST_CALLBACK_BYTES, Forged, NotAccepted, Stale, WeChat

PATH = "/v1/wechat/notify"


def routes(door: Door, provider: WeChat) -> list[Route]:
    """POST /v1/wechat/notify, the protocol's notify_url.

    204: verified and kept. Kept is also what our handler failed on: it is parked with its body, and asking
    the provider to repeat it would not mend our code. 401: not the provider's word, or an old one: counted,
    and nothing is written. 400: his word, but not a payment to us. 413, 408: too long or too slow to be his.
    503: the database is away, nothing is kept, he repeats it.
    """

    async def notify(request: Request) -> Response:
        try:
            body = await read_body(request, MOST_CALLBACK_BYTES)
        except NotTaken as why:
            return _said(why.status, Reason[why.refusal.code], why.refusal.expected, why.headers)
        try:
            paid = provider.read_callback(request.headers, body)
        except (Forged, Stale) as refused:
            metrics.forged("payment", "callback", kept=False)
            return _said(401, refused.reason, refused.detail)
        except NotAccepted as refused:
            return _said(400, refused.reason, refused.detail)
        try:
            await door.tell(paid)
        except Busy:
            return _said(503, Reason.UNDER_REPAIR, "")
        return Response(status_code=204)

    return [Route(PATH, notify, methods=["POST"])]


def _said(status: int, reason: Reason, detail: str, headers: dict[str, str] | None = None) -> Response:
    """The protocol's form of a failure: code and message."""
    return JSONResponse({"code": reason.name, "message": f"{reason.zh} {detail}".strip()}, status, headers)

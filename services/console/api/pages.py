"""How does it look? HTML from values; every text is escaped on its way in: no name becomes markup."""

from collections.abc import Awaitable, Callable
from html import escape

from starlette.requests import Request
from starlette.responses import Response

from services.console.rules import BY_TYPE, STAGES, Person, Step, details, instant, said_by, title
from services.console.store import Counts, Timeline

Answers = Callable[[Request], Awaitable[Response]]
_PERSON = "enrollment.person_recorded.v1"
_KINDS = {
    "person": "参保人 person",
    "bill": "缴费单 bill",
    "order": "订单 order",
    "journey": "参保登记 enrollment",
    "event": "事件 event",
    "transaction": "渠道流水号或请求号 transaction or request",
}


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, *inside: str, **attributes: str) -> Html:
    """An element. Texts are escaped unless they are Html; an attribute's trailing underscore falls away."""
    given = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items())
    body = "".join(part if isinstance(part, Html) else escape(part) for part in inside)
    return Html(f"<{name}{given}>{body}</{name}>")


def home(counts: str) -> str:
    """The front page around the live counts."""
    return _page("参保 canbao", _search(""), tag("main", Html(counts), id="live"), refreshed=True)


def live(counts: Counts) -> Html:
    """How many are at each stage, how fast, and what is parked."""
    return Html(_stages(counts) + _parked(counts) + _types(counts))


def timeline(wanted: str, found: Timeline | None) -> str:
    """One way through all services, or that nobody has said anything about it."""
    if found is None:
        known = (
            "本台只认参保人、登记、缴费单、订单、流水号、请求号和事件编号 · "
            "only ids of persons, enrollments, bills, orders, transactions, requests and events"
        )
        return _page(
            "查无记录 · nothing is known",
            _search(wanted),
            tag(
                "main", tag("p", f"查无记录 · nothing is known about {wanted}"), tag("p", known, class_="sub")
            ),
        )
    head = tag("h2", _KINDS[found.kind], " ", tag("small", wanted))
    more = (
        [tag("p", f"仅显示前 {len(found.steps)} 条 · only the first {len(found.steps)} steps", class_="sub")]
        if found.more
        else []
    )
    return _page(wanted, _search(wanted), tag("main", head, *map(_who, found.people), _steps(found), *more))


def sealed() -> str:
    """Somebody looked for an ID number or a phone; neither is repeated."""
    said = (
        "证件号码和手机号只加密保存，查不到任何人；请用本系统的编号 · "
        "ID numbers and phones are stored sealed and find nobody; give an id of ours"
    )
    return _page("canbao", _search(""), tag("main", tag("p", said)))


def away() -> str:
    """Nothing can be read now."""
    return _page(
        "canbao",
        tag(
            "main",
            tag(
                "p", "数据库暂不可用，稍后自动恢复 · the database is away; nothing is lost, try again shortly"
            ),
        ),
    )


def _page(name: str, *body: str, refreshed: bool = False) -> str:
    head = [
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", name),
        Html('<link rel="stylesheet" href="/style.css">'),
    ]
    if refreshed:
        head.append(Html('<script src="/live.js" defer></script>'))
        head.append(Html('<noscript><meta http-equiv="refresh" content="5"></noscript>'))
    top = tag(
        "header",
        tag("a", "参保 canbao", href="/"),
        tag("span", "一人一程，四个服务 · one person's way through four services", class_="sub"),
    )
    return "<!doctype html>" + tag("html", tag("head", *head), tag("body", top, *body), lang="zh-CN")


def _search(wanted: str) -> Html:
    hint = (
        "参保人、登记、缴费单、订单、流水号、请求号或事件编号 · "
        "id of a person, enrollment, bill, order, transaction, request or event"
    )
    said = f'placeholder="任一编号 any id" title="{hint}" aria-label="{hint}"'
    box = Html(f'<input name="id" value="{escape(wanted)}" {said} autocomplete="off" required>')
    return tag("form", box, tag("button", "查询 Search"), action="/timeline", method="get", role="search")


def _stages(counts: Counts) -> Html:
    cards = []
    for stage, (zh, en) in STAGES.items():
        types = (
            [_PERSON]
            if stage == "registered"
            else [name for name, words in BY_TYPE.items() if words.stage == stage]
        )
        number, lately = (sum(of.get(name, 0) for name in types) for of in (counts.facts, counts.lately))
        if stage == "parked":
            number -= sum(counts.redriven.values())  # what is still to be repaired
        rate = f"+{lately:,} / min" if lately else "–"
        cards.append(
            tag(
                "div",
                tag("b", zh),
                tag("small", en),
                tag("strong", f"{number:,}"),
                tag("i", rate),
                class_=f"card {stage}",
            )
        )
    return tag("section", *cards, class_="cards")


def _parked(counts: Counts) -> Html:
    rows = []
    for service in sorted(counts.parked):
        parked, redriven = counts.parked[service], counts.redriven.get(service, 0)
        rows.append(_row("td", service, f"{parked:,}", f"{redriven:,}", f"{parked - redriven:,}"))
    if not rows:
        return tag("p", "没有待修复的消息 · nothing is parked", class_="sub")
    head = _row("th", "待修复 parked", "累计 ever", "已重放 redriven", "未结 open")
    return tag("table", tag("thead", head), tag("tbody", *rows), class_="numbers parked")


def _types(counts: Counts) -> Html:
    rows = [
        _row("td", tag("span", *_titles(name)), name, f"{number:,}", f"{counts.lately.get(name, 0):,}")
        for name, number in sorted(counts.facts.items())
        if number
    ]
    head = _row("th", "事实 facts", "类型 type", "累计 ever", "近一分钟 last minute")
    return tag("table", tag("thead", head), tag("tbody", *rows), class_="numbers types")


def _titles(name: str) -> tuple[str, Html]:
    zh, en = ("已登记参保人", "people registered") if name == _PERSON else title(name)
    return zh, tag("small", f" {en}")


def _who(person: Person) -> Html:
    return tag(
        "p",
        tag("b", person.name_masked),
        f" · {person.region_code} · 注册于 registered {instant(person.at)} ",
        tag("a", person.person_id, href=f"/timeline/{person.person_id}", class_="id"),
        class_="who",
    )


def _steps(found: Timeline) -> Html:
    head = _row(
        "th", "时间 time (+08:00)", "服务 service", "事实 fact", "内容 details", "编号 ids", "出处 record"
    )
    return tag("table", tag("thead", head), tag("tbody", *map(_step, found.steps)), class_="steps")


def _step(step: Step) -> Html:
    ids = [
        ("登记 enrollment", step.enrollment_id),
        ("缴费单 bill", step.obligation_id),
        ("订单 order", step.order_id),
    ]
    links = [
        tag("a", f"{name} …{value[-6:]}", href=f"/timeline/{value}", title=value, class_="id")
        for name, value in ids
        if value
    ]
    place = tag("span", f"{step.topic}/{step.part}/{step.record_offset}", title=step.ce_id)
    return tag(
        "tr",
        tag("td", instant(step.at).removesuffix("+08:00"), class_="time"),
        tag("td", said_by(step.topic, step.about)),
        tag("td", *_titles(step.type)),
        tag("td", details(step.type, step.about)),
        tag("td", *links),
        tag("td", place, class_="sub"),
    )


def _row(cell: str, *texts: str) -> Html:
    return tag("tr", *(tag(cell, text) for text in texts))

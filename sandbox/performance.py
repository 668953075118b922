"""What happens in a demo, from the first registration to the comparison with the plan?"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import aiohttp
import asyncpg
import msgspec
from msgspec import Struct

from contracts.enrollment import ENROLLMENTS
from contracts.partners import PARTNERS
from contracts.topics import SERVICES
from sandbox.city import City, Conduct, Line
from sandbox.drive import Drive, Outside, Pace, Refusal, at_once
from sandbox.ending import end
from sandbox.expected import Picture, differences, picture
from sandbox.partner import TRIES, Partner, read_topics
from sandbox.people import REGION
from sandbox.show import Report, Screen
from sandbox.watch import Watch
from services.chassis.keys import load_keyring
from services.chassis.settings import Kafka

COVER_BEGINS = datetime.fromisoformat("2025-01-01T00:00+08:00")
QUIET_SECONDS = 1.0             # so long nothing new: then what is too much would have shown itself


_Line = TypeVar("_Line", bound=Struct)


class Ground(Struct, frozen=True, kw_only=True):
    """What the demo stands on. keys: the folder of key files. kafka: how a principal gets in. now: business
    instant.

    auditor: Postgres URL of the auditor. sms, mail: base URLs of the SMS gateway and of the mail server's
    book. tries: of a partner that hears no answer.
    """

    kafka: Callable[[str], Kafka]
    keys: Path
    outside: Outside
    sms: str
    mail: str
    auditor: str
    now: Callable[[], datetime]
    tries: int = TRIES


class _Sms(Struct, frozen=True):
    phone: str
    template: str


class _Mail(Struct, frozen=True):
    message_id: str
    to: str


async def perform(
    city: City, ground: Ground, screen: Screen, *, patience_seconds: float, pace: Pace = at_once
) -> tuple[Report, str]:
    """Live the plan and compare; the report, and the person_id of one citizen whose journey is worth a look.

    patience_seconds: for each of the two acts; what is not there then shows as a difference. pace: how fast
    citizens come.
    """
    async with AsyncExitStack() as exits:
        partners = await _enter(exits, ground)
        watch, drive = await _prepare(exits, city, ground, partners)
        plan = picture(city.expected, [citizen.reach for citizen in city.citizens])
        started = time.monotonic()
        ticking = asyncio.create_task(_tick(drive, watch, plan, screen))
        exits.callback(ticking.cancel)
        screen.say(f"{len(city.citizens):,} citizens apply, are reviewed, billed, and pay")
        await _first_act(drive, watch, plan, exits, ground, patience_seconds, pace)
        await pace(1.0)
        screen.say(f"the business clock moves to {COVER_BEGINS.isoformat()}")
        try:
            await drive.advance_clock(COVER_BEGINS, SERVICES)
        except (Refusal, TimeoutError) as failure:
            drive.refused.add(("the clock", str(failure) or "no answer"))
        await watch.until(lambda: _all_told(watch.seen, plan), time.monotonic() + patience_seconds)
        await watch.until_quiet(QUIET_SECONDS, time.monotonic() + 15)
        seen = await _seen(drive, watch, ground)
        ended = time.monotonic()
    _complete(plan, drive)
    seen.asked_after &= plan.asked_after  # a machine that is slow leaves more in doubt
    shown = _worth_a_look(city, watch)
    first = watch.first_settled_at
    report = Report(
        citizens=len(city.citizens),
        approved=len(seen.approved),
        billed=len(seen.billed),
        waived=len(seen.waived),
        paid=drive.done["paid"],
        settled=len(seen.settled),
        covered=len(seen.covered),
        notified=seen.told,
        by_mail=seen.by_mail.total(),
        by_nobody=seen.by_nobody.total(),
        asked_after=seen.asked_after.total(),
        refused=dict(sum((partner.refused for partner in partners.values()), Counter())),
        parked=seen.parked.total(),
        forged=seen.forged.total(),
        suspense=seen.suspense.total(),
        ledger_sum_fen=await _ledger_sum(ground.auditor),
        differences=differences(plan, seen),
        journey=watch.journeys.get(shown, ""),
        seconds=round(ended - started, 1),
        first_settled_seconds=round(first - started, 1) if first else -1.0,
    )
    return report, drive.people.get(shown, "")


async def _enter(exits: AsyncExitStack, ground: Ground) -> dict[str, Partner]:
    """Every partner, connected."""
    partners = {
        code: Partner(
            code,
            ground.kafka(code),
            load_keyring(ground.keys / f"{code}.json"),
            ground.now,
            tries=ground.tries,
        )
        for code in PARTNERS
    }

    async def enter(partner: Partner) -> None:
        await partner.start()
        exits.push_async_callback(partner.stop)

    await asyncio.gather(*map(enter, partners.values()))
    return partners


async def _prepare(
    exits: AsyncExitStack, city: City, ground: Ground, partners: dict[str, Partner]
) -> tuple[Watch, Drive]:
    watch = Watch()
    published = await read_topics(ground.kafka("auditor"), watch.topics, from_start=False)
    exits.push_async_callback(published.stop)
    reading = asyncio.create_task(watch.run(published))
    exits.push_async_callback(end, reading)
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{ground.sms}/simulator/faults", json={"named": city.sms_faults}) as response,
    ):
        response.raise_for_status()
    run = f"{city.seed}-{int(time.time()):x}"
    return watch, Drive(city, partners, watch, ground.outside, run)


async def _first_act(
    drive: Drive,
    watch: Watch,
    plan: Picture,
    exits: AsyncExitStack,
    ground: Ground,
    patience_seconds: float,
    pace: Pace,
) -> None:
    """Until all money that needs no question has arrived."""
    submissions = await read_topics(ground.kafka(REGION), [ENROLLMENTS], from_start=False)
    exits.push_async_callback(submissions.stop)
    deadline = time.monotonic() + patience_seconds
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + patience_seconds):
            await drive.live(submissions, pace)
    except TimeoutError:
        drive.refused.add(("the first act", f"not over after {patience_seconds:.0f} s"))
    lost = sum(citizen.conduct is Conduct.LOST_CALLBACK for citizen in drive.city.citizens)
    await watch.until(lambda: _all_arrived(watch.seen, plan, lost), deadline)


def _all_arrived(seen: Picture, plan: Picture, lost: int) -> bool:
    return len(seen.settled) >= len(plan.settled) - lost and seen.suspense.total() >= plan.suspense.total()


def _all_told(seen: Picture, plan: Picture) -> bool:
    return (
        len(seen.covered) >= len(plan.covered)
        and seen.told >= plan.told
        and seen.by_nobody.total() >= plan.by_nobody.total()
    )


async def _tick(drive: Drive, watch: Watch, plan: Picture, screen: Screen) -> None:
    """Draw four times a second."""
    citizens = len(drive.city.citizens)
    targets = dict.fromkeys(("registered", "submitted", "reviewed"), citizens) | {
        "billed": len(plan.billed) + len(plan.waived),
        "paid": sum(citizen.pays_fen > 0 for citizen in drive.city.citizens),
        "settled": len(plan.settled),
        "covered": len(plan.covered),
        "notified": plan.told,
    }
    while True:
        seen = watch.seen
        screen.show(
            {**drive.done, "billed": len(seen.billed) + len(seen.waived), "settled": len(seen.settled),
             "covered": len(seen.covered), "notified": seen.told},
            targets,
        )
        await asyncio.sleep(0.25)  # eyes need no more


async def _seen(drive: Drive, watch: Watch, ground: Ground) -> Picture:
    """All that came out: by the topics, the answers, and the books of SMS gateway and mail server."""
    seen = watch.seen
    for (source, reason), times in watch.parked.items():
        if source in drive.nuisance.forged:
            seen.forged[f"{source} {reason}"] += times
        else:
            seen.parked[source] += times
    seen.refused = drive.refused | drive.nuisance.refused
    seen.unlike = drive.unlike_answers()
    async with aiohttp.ClientSession() as http:
        for sms in await _book(http, ground.sms, _Sms):
            seen.texted[sms.phone, sms.template] += 1
        for mail, times in Counter(await _book(http, ground.mail, _Mail)).items():
            template = watch.templates.get(mail.message_id.partition("@")[0], "told by nobody")
            seen.mailed[mail.to, template] += 1
            seen.mailed_again += Counter({(mail.to, template): times - 1})
    return seen


async def _book(http: aiohttp.ClientSession, url: str, line: type[_Line]) -> list[_Line]:
    async with http.get(f"{url}/simulator/book") as response:
        decode = msgspec.json.Decoder(line).decode
        return [decode(text) for text in (await response.read()).splitlines()]


def _complete(plan: Picture, drive: Drive) -> None:
    """What could be planned only once the records stood in their topics."""
    planted = drive.nuisance.planted
    plan.parked, plan.forged, plan.refused = planted.parked, planted.forged, planted.refused


def _worth_a_look(city: City, watch: Watch) -> int:
    """A citizen with a story who could be told of it: paid twice if there is one, else one who settled;
    blunders' citizen last.
    """
    settled = sorted(
        (n for n in watch.journeys if n >= 0),
        key=lambda number: (number == 0, city.citizens[number].line is not Line.TAKES, number),
    )
    twice = [number for number in settled if city.citizens[number].conduct is Conduct.TWICE]
    return (twice or settled or [-1])[0]


async def _ledger_sum(url: str) -> int:
    conn = await asyncpg.connect(url, ssl="disable")
    try:
        total: int = await conn.fetchval("select coalesce(sum(amount_fen), 0)::bigint from payment.ledger")
        return total
    finally:
        await conn.close()

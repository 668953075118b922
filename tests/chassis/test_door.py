"""What does a partner hear at the door? Its own answer, soon, wherever it is given, and nobody else's."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from msgspec import Struct
from msgspec.json import decode, encode
from starlette.requests import Request
from typing_extensions import override

from contracts.answers import ANSWER_QUERY, Accepted
from contracts.billing import QueryBill
from contracts.message import contract_of
from contracts.reasons import Reason, refused
from sandbox.partner import Letter, Partner, as_http
from sandbox.stack import Stack
from services.chassis import commands, metrics
from services.chassis.arrival import Arrival, Raw, RequestKey
from services.chassis.database import connect
from services.chassis.forgers import AT_ONCE_ADDRESS, AT_ONCE_PARTNER, REFILL_SECONDS, Forgers
from services.chassis.ids import uuid7
from services.chassis.keys import load_keyring
from services.chassis.outcomes import Outcomes
from services.chassis.service import Running
from services.chassis.subscriptions import Batch, Subscriptions
from services.chassis.transaction import Transaction
from services.chassis.web import NotTaken
from services.chassis.wire import internal
from tests.chassis.running import running, until
from tests.chassis.toys import Toy, person, toy
from tests.ground import Database

QUERY = contract_of(QueryBill).type


class Heard(NamedTuple):
    """What the door said."""

    status: int
    headers: dict[str, str]
    body: Any


class Caller:
    """A partner at a door, without Kafka."""

    def __init__(self, code: str, run: Running, stack: Stack) -> None:
        keys = load_keyring(Path(run.settings.keys).with_name(f"{code}.json"))
        self.partner = Partner(code, stack.kafka(code), keys, lambda: datetime.now(UTC))
        self.url = f"http://{run.settings.door}/v1/commands"

    async def says(self, body: bytes, key: str, type: str = QUERY, **other: str) -> Heard:
        """Any body, signed; other: headers in the place of the right ones."""
        return await self._send("POST", "", self.partner.signed(type, key, body), other)

    async def asks(self, command: QueryBill) -> Heard:
        return await self._send("POST", "", self.partner.letter(command), {})

    async def asks_after(self, request_id: str, type: str = ANSWER_QUERY, **other: str) -> Heard:
        """The query that follows a 202."""
        return await self._send("GET", f"/{request_id}", self.partner.signed(type, request_id, b""), other)

    async def _send(self, method: str, path: str, letter: Letter, other: dict[str, str]) -> Heard:
        headers = as_http(letter) | other
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.url + path, data=letter.value or None, headers=headers) as answer,
        ):
            return Heard(answer.status, {k.lower(): v for k, v in answer.headers.items()},
                         decode(await answer.read()))  # fmt: skip


class Word(Struct, frozen=True, kw_only=True):
    """The outside's word about a request: now it can be answered."""

    request_id: str
    person_id: str
    down: bool = False


class Desk(Toy):
    """Billing that promises each answer, and gives it when the word comes. asked: how often it was asked."""

    asked = 0

    @override
    def _subscriptions(self) -> Subscriptions:
        on = Subscriptions("billing")

        @on(QueryBill, refs=lambda c: [person(c.person_id)])
        async def promise(commands: Batch[QueryBill], tx: Transaction) -> None:
            for command in commands:
                self.asked += 1
                tx.defer(command)

        @on(Word, refs=lambda w: [person(w.person_id)])
        async def answer(words: Batch[Word], tx: Transaction) -> None:
            for word in words:
                result = refused(Reason.CHANNEL_DOWN) if word.down else {"year": 2025}
                tx.answer(RequestKey("wechat", word.request_id), QUERY, result, key=word.person_id)

        return on

    def word(self, ask: QueryBill, *, down: bool = False) -> Arrival:
        """As the gateway's worker of another process hands it over."""
        told = Word(request_id=ask.request_id, person_id=ask.person_id, down=down)
        return internal(self.on.by_type["Word"], Raw("call", None, None, None, (), encode(told), 0))

    async def remembers(self, ask: QueryBill, *, answered: bool = False) -> bool:
        """Whether the request is stored, with an answer or without one."""
        sql = "select answer is not null from request where request_id = $1"
        return await self.rows(sql, ask.request_id) == [(answered,)]


@asynccontextmanager
async def desk(database: Database) -> AsyncIterator[Desk]:
    made = Desk(database)
    made.db = await connect(database.url("billing"), "toy")
    try:
        yield made
    finally:
        await made.db.close()


def wish(request_id: str = "r-1", year: int = 2025) -> QueryBill:
    return QueryBill(request_id=request_id, person_id=uuid7(), insurance_year=year)


async def test_many_callers_at_the_door_share_a_transaction_and_each_hears_its_own_answer(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, running(broker, tmp_path, made.on) as run:
        wechat = Caller("wechat", run, broker)
        asks = [wish(f"r-{n}", 2000 + n) for n in range(2, 42)]
        answers = await asyncio.gather(*map(wechat.asks, asks))

        assert [a.body["result"]["year"] for a in answers] == list(range(2002, 2042))
        assert (await made.rows("select count(distinct batch_id) from outbox"))[0][0] < 40


async def test_at_the_door_a_command_that_never_ends_is_parked_after_five_tries_and_takes_nobody_along(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, running(broker, tmp_path, made.on) as run:
        run.door.deadline_seconds /= 40
        wechat, hanging, others = Caller("wechat", run, broker), wish("r-endless"), []
        made.endless = {hanging.person_id}
        heard = []
        for n in range(6):
            first = asyncio.create_task(wechat.asks(hanging))
            again = [wish(f"r-{n}-{m}") for m in range(3)]
            answers = await asyncio.gather(*map(wechat.asks, again))
            others += [answer.status for answer in answers] if n else []    # at first nobody knows who it was
            said = (await first).body
            heard.append(said.get("code") or said["refusal"]["code"])
        assert others == [200] * 15
        assert set(heard) == {"UNDER_REPAIR"}
        assert await made.rows("select type, state from parked") == [(QUERY, "PARKED")]


async def test_the_door_tells_a_forger_a_misfit_and_a_conflict_apart(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, running(broker, tmp_path, made.on) as run:
        wechat = Caller("wechat", run, broker)
        who = uuid7()
        good = f'{{"request_id":"r-1","person_id":"{who}","insurance_year":2025}}'.encode()
        assert (await wechat.says(good, who)).status == 200
        assert (await wechat.says(good, who, **{"canbao-sig": "AAAA"})).status == 401
        assert (await wechat.says(good.replace(b"2025", b"2024"), who)).status == 409
        misfit = await wechat.says(b'{"request_id":"r-2","person_id":5}', who)
        assert (misfit.status, misfit.body["refusal"]["code"], misfit.body["refusal"]["field"]) == (
            422, "SCHEMA_INVALID", "person_id",
        )  # fmt: skip
        secret = await wechat.says(b'{"request_id":"r-3","password":"x"}', who)
        assert (secret.status, secret.body["code"]) == (400, "SECRET_IN_MESSAGE")
        rows = await made.rows("select reason, value is null from parked order by seq")
        assert rows == [("SIGNATURE_INVALID", False), ("SECRET_IN_MESSAGE", True)]


async def test_an_answer_that_another_process_gives_arrives_soon(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with desk(database) as made, running(broker, tmp_path, made.on) as run:
        wechat, asks = Caller("wechat", run, broker), [wish(f"r-{n}") for n in range(20)]
        waiting = [asyncio.create_task(wechat.asks(ask)) for ask in asks]
        for ask in asks:
            await until(lambda ask=ask: made.remembers(ask))  # type: ignore[misc]

        await made.run(*map(made.word, asks))  # an engine that knows nothing of this door
        answered = time.monotonic()

        assert {heard.status for heard in await asyncio.gather(*waiting)} == {200}
        assert time.monotonic() - answered < 1.0


async def test_all_who_wait_for_an_answer_look_for_it_by_one_statement(database: Database) -> None:
    async with toy(database) as made:
        who, one = uuid7(), Outcomes()
        await made.run(*(made.arrived(QueryBill(request_id=f"r-{n}", person_id=who, insurance_year=2025))
                         for n in range(50)))  # fmt: skip
        statements: list[str] = []
        looks = [one.look(RequestKey("wechat", f"r-{n}")) for n in range(51)]
        with made.db.query_logger(lambda record: statements.append(record.query)):
            looking = asyncio.create_task(one.run(made.db))
            seen = await asyncio.wait_for(asyncio.gather(*looks), 5)
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

        assert [bool(stored and stored.answer) for stored in seen] == [True] * 50 + [False]
        assert len(statements) == 1


async def test_a_202_names_the_query_that_tells_the_answer_and_only_to_whom_it_belongs(
    database: Database, broker: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "PATIENCE_SECONDS", 0.3)
    async with desk(database) as made, running(broker, tmp_path, made.on) as run:
        wechat, alipay = Caller("wechat", run, broker), Caller("alipay", run, broker)
        ask = wish("a/b%c?")
        heard = await wechat.asks(ask)
        path = "/v1/commands/a%2Fb%25c%3F"
        assert (heard.status, heard.headers["location"]) == (202, path)
        assert heard.body == {"outcome": "PENDING", "request_id": ask.request_id, "query": path}

        async with aiohttp.ClientSession() as http:
            assert (await wechat.partner.query_http(http, run.settings.door, ask.request_id))[0] == 202
            await made.run(made.word(ask))
            status, body = await wechat.partner.query_http(http, run.settings.door, ask.request_id)
            assert (status, decode(body, type=Accepted).result) == (200, {"year": 2025})
            status, body = await alipay.partner.query_http(http, run.settings.door, ask.request_id)
            assert (status, decode(body)["code"]) == (404, "REQUEST_UNKNOWN")

        assert (await wechat.asks_after("r-2")).status == 404
        assert (await wechat.asks_after("r-2", **{"canbao-sig": "AAAA"})).status == 401
        assert (await wechat.asks_after("r-2", **{"ce-source": "/channels/alipay"})).status == 401
        assert (await wechat.asks_after("r-2", type=QUERY)).status == 403
        command = await wechat.says(b"", "r-2", type=ANSWER_QUERY)
        assert (command.status, command.body["code"]) == (403, "NOT_PERMITTED")


async def test_a_partner_follows_a_202_to_its_answer(
    database: Database, broker: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "PATIENCE_SECONDS", 0.3)
    async with desk(database) as made, running(broker, tmp_path, made.on) as run:
        wechat, ask = Caller("wechat", run, broker), wish()
        async with aiohttp.ClientSession() as http:
            asking = asyncio.create_task(wechat.partner.ask_http(http, run.settings.door, ask))
            await until(lambda: made.remembers(ask))
            queried = metrics_of("canbao_forged")
            await made.run(made.word(ask))
            answer = await asking
        assert isinstance(answer, Accepted)
        assert (made.asked, queried) == (1, metrics_of("canbao_forged"))


async def test_a_promised_refusal_that_says_try_again_does_not_stand_for_ever(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with desk(database) as made, running(broker, tmp_path, made.on) as run:
        wechat, ask = Caller("wechat", run, broker), wish()

        async def asked(*, down: bool) -> Heard:
            asking = asyncio.create_task(wechat.asks(ask))
            await until(lambda: made.remembers(ask))
            await made.run(made.word(ask, down=down))
            return await asking

        heard = await asked(down=True)
        assert (heard.status, heard.body["refusal"]["code"]) == (422, "CHANNEL_DOWN")
        queried = await wechat.asks_after(ask.request_id)
        assert (queried.status, queried.body["refusal"]["code"]) == (200, "CHANNEL_DOWN")

        assert (await asked(down=False)).status == 200
        assert made.asked == 2
        assert (await wechat.asks(ask)).status == 200  # this one is remembered
        assert made.asked == 2


async def test_forged_commands_fill_no_disk_and_throttle_nobody_who_signs(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, running(broker, tmp_path, made.on) as run:
        wechat, who = Caller("wechat", run, broker), uuid7()
        before = metrics_of("canbao_forged")
        body = encode(QueryBill(request_id="r-1", person_id=who, insurance_year=2025))
        heard = [await wechat.says(body, who, **{"canbao-sig": "AAAA"}) for _ in range(AT_ONCE_ADDRESS + 15)]

        assert [h.status for h in heard] == [401] * AT_ONCE_ADDRESS + [429] * 15
        assert heard[-1].body["code"] == "TOO_MANY_FORGED"
        assert 0 < int(heard[-1].headers["retry-after"]) <= REFILL_SECONDS
        assert await made.rows("select count(*) from parked") == [(AT_ONCE_ADDRESS,)]
        assert metrics_of("canbao_forged") - before == AT_ONCE_ADDRESS + 15
        assert [(await wechat.asks(wish(f"r-{n}"))).status for n in range(5)] == [200] * 5


async def test_who_names_no_partner_leaves_nothing_behind(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, running(broker, tmp_path, made.on) as run:
        wechat = Caller("wechat", run, broker)
        for source in ("", "/billing", "/channels/nobody"):
            heard = await wechat.says(b"{}", "k", type="enrollment.enrollment_approved.v1",
                                      **{"ce-source": source, "ce-id": "x"})  # fmt: skip
            assert (heard.status, heard.body["field"]) == (401, "ce-source")
        assert await made.rows("select count(*) from parked") == [(0,)]


@pytest.mark.parametrize(("other", "status", "field"), [
    ({"content-type": None}, 415, "content-type"),                      # none at all
    ({"content-type": "application/xml"}, 415, "content-type"),
    ({"content-type": "application/jsonx"}, 415, "content-type"),
    ({"content-encoding": "gzip"}, 415, "content-encoding"),
    ({"canbao-key": "k" * 129}, 400, "canbao-key"),
    ({"CE-Type": "billing.query_bill.v1"}, 400, "ce-type"),             # beside ours: a second one
    ({"content-type": "application/json; charset=utf-8"}, 200, ""),
])  # fmt: skip
def test_a_form_that_could_be_read_in_two_ways_is_refused(
    other: dict[str, str | None], status: int, field: str
) -> None:
    letter = {"ce-source": "/channels/wechat", "ce-type": "payment.start_payment.v1", "canbao-key": "k",
              "content-type": "application/json"}
    named = [*((name, text) for name, text in letter.items() if name not in other), *other.items()]
    headers = [(name.lower().encode(), text.encode()) for name, text in named if text is not None]
    request = Request({"type": "http", "method": "POST", "headers": headers})
    try:
        commands.check_form(request)
        heard: tuple[int, str] = (200, "")
    except NotTaken as why:
        heard = why.status, why.refusal.field

    assert heard == (status, field)


def test_a_forger_with_many_addresses_meets_the_bucket_of_the_partner_he_names() -> None:
    forgers = Forgers()
    kept = [forgers.wait_seconds("channels.wechat", f"10.0.0.{n}", 0.0) == 0.0 for n in range(200)]

    assert kept == [True] * AT_ONCE_PARTNER + [False] * (200 - AT_ONCE_PARTNER)
    assert forgers.wait_seconds("channels.wechat", "10.0.0.1", 1.0) == pytest.approx(REFILL_SECONDS - 1.0)
    assert forgers.wait_seconds("channels.wechat", "10.0.0.1", REFILL_SECONDS) == 0.0
    assert forgers.wait_seconds("channels.bank", "10.0.0.1", REFILL_SECONDS) == 0.0


def metrics_of(name: str) -> float:
    """All series of a counter together."""
    lines = metrics.exposition()[0].decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}_total{{"))

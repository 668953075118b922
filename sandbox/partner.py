"""How does a partner talk to us? Signed records on its own topic or over HTTP, answers read back."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from msgspec import Struct
from typing_extensions import override

from contracts.answers import ANSWER_QUERY, Accepted, Rejected
from contracts.message import CONTRACTS, contract_of
from contracts.partners import PARTNERS
from contracts.topics import PARTITIONS, TOPICS
from sandbox.ending import end
from sandbox.recent import Recent
from services.chassis import trust
from services.chassis.ids import partition_of, uuid7
from services.chassis.keys import Keyring
from services.chassis.settings import Kafka

BATCH_BYTES = 1_000_000  # below the broker's limit for one record batch
GATHER_SECONDS = 0.025  # between two sends: what comes meanwhile goes together, in fewer and fuller batches
FETCH_BYTES, FETCH_MS = 65_536, 100  # what a reader waits for, and how long: everybody is asked less often
PATIENCE_SECONDS = 20.0  # no answer for so long: say it again, under the same request id
TRIES = 3  # so often, unless the partner knows of an outage that will last longer

Answer = Accepted | Rejected
_decode_answer = msgspec.json.Decoder(Answer).decode


class Letter(NamedTuple):
    """One record as it goes on the wire."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Place(NamedTuple):
    """Where a record stands in its topic; printed as MessageParked names its source."""

    topic: str
    partition: int
    offset: int

    @override
    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class Unanswered(Exception):
    """No answer came, however often it was said."""


def kafka_options(kafka: Kafka) -> dict[str, Any]:
    """What an aiokafka client needs to come in as this principal."""
    options: dict[str, Any] = {"bootstrap_servers": kafka.bootstrap, "security_protocol": kafka.security}
    if kafka.user:
        options |= {
            "sasl_mechanism": "SCRAM-SHA-256",
            "sasl_plain_username": kafka.user,
            "sasl_plain_password": kafka.password,
        }
    return options


class Partner:
    """A partner's whole client: start, then post, ask or ask_http, then stop.

    The first letter goes at once; those that come while it is under way, and a moment longer, go together.
    now: the business instant for ce_time; signatures carry the system clock. tries: see TRIES.
    """

    def __init__(
        self, code: str, kafka: Kafka, keys: Keyring, now: Callable[[], datetime], *, tries: int = TRIES
    ) -> None:
        self.who = PARTNERS[code]
        self.keys, self.now, self.tries = keys, now, tries
        self._kafka = kafka
        self._source = trust.source_of(self.who.topic).encode()
        self._waiting: list[tuple[Letter, asyncio.Future[Place]]] = []
        self._asked: dict[str, asyncio.Future[Answer]] = {}
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.answers: dict[str, list[Answer]] = {}  # of the requests that are to be heard more than once
        self.refused: Counter[str] = Counter()  # answers by the code of their refusal
        self._recent = Recent()
        self.unasked = 0  # answers to nobody who still waits: repeats

    async def start(self) -> None:
        """Connect; answers are read from now on, not from the past. Raises aiokafka's KafkaError when it may
        not.
        """
        self._producer = AIOKafkaProducer(
            **kafka_options(self._kafka),
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            max_batch_size=BATCH_BYTES,
        )
        self._consumer = AIOKafkaConsumer(
            **kafka_options(self._kafka),
            enable_auto_commit=False,
            fetch_min_bytes=FETCH_BYTES,
            fetch_max_wait_ms=FETCH_MS,
        )
        await asyncio.gather(self._producer.start(), self._consumer.start())
        partitions = [TopicPartition(self.who.replies, number) for number in range(PARTITIONS)]
        self._consumer.assign(partitions)
        await self._consumer.seek_to_end(*partitions)
        for partition in partitions:
            await self._consumer.position(partition)  # seek_to_end is lazy; what we ask next must be after it
        self._tasks = [asyncio.create_task(self._post_all()), asyncio.create_task(self._hear_all())]
        for task in self._tasks:
            task.add_done_callback(self._broke)

    async def stop(self) -> None:
        """Let go of everything; who still waits for an answer is told that none comes."""
        await end(*self._tasks)
        self._give_up(Unanswered(f"{self.who.code} has stopped"))
        stopped = await asyncio.gather(self._producer.stop(), self._consumer.stop(), return_exceptions=True)
        if any(isinstance(how, asyncio.CancelledError) for how in stopped):
            await self._consumer._client.close()    # aiokafka tripped over a fetch that it cancelled itself

    # ---- what goes out

    def letter(self, command: Struct) -> Letter:
        """A command as a signed record."""
        contract = contract_of(command)
        return self.signed(contract.type, str(getattr(command, contract.key)), msgspec.json.encode(command))

    def signed(
        self,
        type_name: str,
        key: str,
        body: bytes | None,
        *,
        keys: Keyring | None = None,
        money: bool | None = None,
    ) -> Letter:
        """Any body under any type, signed as this partner: also what no contract allows. keys, money: a
        forger's choice.
        """
        contract = CONTRACTS.get(type_name)
        headers = {
            "ce_specversion": b"1.0",
            "ce_id": uuid7().encode(),
            "ce_source": self._source,
            "ce_type": type_name.encode(),
            "ce_time": self.now().isoformat().encode(),
            "content-type": b"application/json",
        }
        asymmetric = contract is not None and contract.money if money is None else money
        signature = trust.sign(
            keys or self.keys,
            topic=self.who.topic,
            key=key.encode(),
            headers=headers,
            value=body or b"",
            money=asymmetric,
        )
        return Letter(self.who.topic, key.encode(), body, [*headers.items(), *signature])

    async def post(self, letter: Letter) -> Place:
        """Send one record; returns where it stands once the broker has it. Raises KafkaError, ValueError: too
        large.
        """
        return await self._hand_in(letter)

    def _hand_in(self, letter: Letter) -> "asyncio.Future[Place]":
        future: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self._waiting.append((letter, future))
        self._woken.set()
        return future

    async def ask(self, command: Struct, *again: Struct) -> Answer:
        """Send a command, and again what says the same under its request id; the first answer. Raises
        Unanswered.

        Silence makes a partner say everything again.
        """
        request_id: str = command.request_id  # type: ignore[attr-defined]
        letters = [self.letter(command), *map(self.letter, again)]
        if again:
            self.answers[request_id] = []
        for attempt in range(self.tries):
            try:
                return await self.ask_raw(request_id, letters if attempt == 0 else [self.letter(command)])
            except TimeoutError:
                continue
        raise Unanswered(f"{self.who.code}: no answer to {request_id}")

    async def ask_raw(
        self,
        request_id: str,
        letters: Iterable[Letter],
        *,
        wait_seconds: float = PATIENCE_SECONDS,
        places: list[Place] | None = None,
    ) -> Answer:
        """Send letters made by hand and wait for the first answer to a request. Raises TimeoutError.

        places: takes where they stand in the topic.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[request_id] = future
        handed_in = [self._hand_in(letter) for letter in letters]
        try:
            for posted in handed_in:
                place = await posted
                if places is not None:
                    places.append(place)
            async with asyncio.timeout(wait_seconds):  # wait_for loses a cancellation that meets the answer
                return await future
        finally:
            self._asked.pop(request_id, None)
            for posted in handed_in:
                posted.cancel()  # nobody waits for it any more

    async def ask_http(
        self, http: aiohttp.ClientSession, door: str, command: Struct, times: int = 1
    ) -> Answer:
        """The same command through a service's door. 202: not decided yet, so its answer is queried. 503 and
        429: not now, so the command is said again.

        Raises Unanswered: the door says something else than an answer, or goes on with 202 and 503.
        """
        deadline = time.monotonic() + self.tries * PATIENCE_SECONDS
        status, body = 0, b""
        while times and time.monotonic() < deadline:
            status, body = await self._knock(http, door, self.letter(command))
            while status == 202 and time.monotonic() < deadline:
                await asyncio.sleep(0.2)    # a door tells nobody when it has decided
                status, body = await self.query_http(http, door, command.request_id)  # type: ignore[attr-defined]
            if status in (0, 404, 429, 503):
                await asyncio.sleep(0.2)    # not now
            else:
                times -= 1
        try:
            answer: Answer = _decode_answer(body)
        except msgspec.MsgspecError:
            raise Unanswered(f"{self.who.code}: HTTP {status}: {body[:200]!r}") from None
        return answer

    async def query_http(
        self, http: aiohttp.ClientSession, door: str, request_id: str
    ) -> tuple[int, bytes]:
        """What became of a command: 200 and the answer, 202: not decided yet, 404: nothing is known of it.

        The record key that is signed is the request id, the type is ANSWER_QUERY, the value is empty.
        """
        letter = self.signed(ANSWER_QUERY, request_id, b"")
        return await self._knock(http, door, letter, f"/{quote(request_id, safe='')}")

    @staticmethod
    async def _knock(
        http: aiohttp.ClientSession, door: str, letter: Letter, which: str = ""
    ) -> tuple[int, bytes]:
        """Status and body; status 0: the connection broke, and whether it came in is not known. which: the
        path of one request, to ask after it.
        """
        url, method = f"http://{door}/v1/commands{which}", "GET" if which else "POST"
        try:
            async with http.request(
                method, url, data=letter.value or None, headers=as_http(letter)
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError) as error:
            return 0, str(error).encode()

    # ---- the two loops

    async def _post_all(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._waiting:
                taken, self._waiting = self._waiting, []
                by_partition: dict[int, list[tuple[Letter, asyncio.Future[Place]]]] = {}
                for letter, future in taken:
                    partition = partition_of((letter.key or b"").decode("utf-8", "replace"))
                    by_partition.setdefault(partition, []).append((letter, future))
                await asyncio.gather(*(self._post_some(p, some) for p, some in by_partition.items()))
                await asyncio.sleep(GATHER_SECONDS)  # as linger.ms does for others

    async def _post_some(self, partition: int, letters: list[tuple[Letter, asyncio.Future[Place]]]) -> None:
        """One partition's letters in their order, in as few record batches as hold them."""
        while letters:
            batch = self._producer.create_batch()
            fitting = _fill(batch, letters)
            posted, letters = letters[:fitting], letters[fitting:]
            if not posted:
                (_, future), *letters = letters
                future.set_exception(ValueError(f"the record is larger than {BATCH_BYTES} bytes"))
                continue
            topic = posted[0][0].topic
            places: list[Place | Exception]
            try:
                sent = await (await self._producer.send_batch(batch, topic, partition=partition))
                places = [Place(topic, partition, sent.offset + at) for at in range(len(posted))]
            except Exception as error:  # noqa: BLE001 - whoever posted it hears of it
                places = [error] * len(posted)
            _end([future for _, future in posted], places)

    async def _hear_all(self) -> None:
        while True:
            for records in (await self._consumer.getmany(timeout_ms=1000)).values():
                for record in records:
                    if self._recent.is_new(dict(record.headers).get("ce_id")):
                        self._hear(_decode_answer(record.value))

    def _hear(self, answer: Answer) -> None:
        repeated = self.answers.get(answer.request_id)
        if repeated is not None:
            repeated.append(answer)
        if isinstance(answer, Rejected):
            self.refused[answer.refusal.code] += 1
        future = self._asked.pop(answer.request_id, None)
        if future is None or future.done():
            self.unasked += 1
        else:
            future.set_result(answer)

    def _broke(self, task: asyncio.Task[None]) -> None:
        """A loop that ends by itself leaves nobody waiting for ever."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        for _, posted in self._waiting:
            if not posted.done():
                posted.set_exception(error)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(error)
        self._waiting, self._asked = [], {}


def _fill(batch: Any, letters: list[tuple[Letter, "asyncio.Future[Place]"]]) -> int:
    """Put letters into a record batch until it is full; how many it took."""
    for count, (letter, _) in enumerate(letters):
        now_ms = int(time.time() * 1000)
        if batch.append(key=letter.key, value=letter.value, timestamp=now_ms, headers=letter.headers) is None:
            return count
    return len(letters)


def _end(futures: list["asyncio.Future[Place]"], places: list[Place | Exception]) -> None:
    for future, place in zip(futures, places, strict=True):
        if future.done():  # whoever asked has given up
            continue
        if isinstance(place, Exception):
            future.set_exception(place)
        else:
            future.set_result(place)


def as_http(letter: Letter) -> dict[str, str]:
    """A record's headers as a door takes them."""
    names = {"sig_key": "canbao-sig-key", "sig_at": "canbao-sig-at", "sig": "canbao-sig"}
    headers = {names.get(n, n.replace("_", "-")): (value or b"").decode() for n, value in letter.headers}
    return {**headers, "canbao-key": (letter.key or b"").decode()}


async def read_topics(kafka: Kafka, topics: Iterable[str], *, from_start: bool) -> AIOKafkaConsumer:
    """A consumer of whole topics without a group, standing at their start or end. The caller stops it."""
    consumer = AIOKafkaConsumer(
        **kafka_options(kafka),
        enable_auto_commit=False,
        max_partition_fetch_bytes=4_194_304,
        fetch_min_bytes=FETCH_BYTES,
        fetch_max_wait_ms=FETCH_MS,
    )
    try:
        await consumer.start()
        partitions = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await (consumer.seek_to_beginning if from_start else consumer.seek_to_end)(*partitions)
        for partition in partitions:
            await consumer.position(partition)
    except BaseException:
        await consumer.stop()
        raise
    return consumer


def published_topics() -> list[str]:
    """Every topic that a service publishes, the answers apart."""
    inbound = {partner.topic for partner in PARTNERS.values()} | {
        partner.replies for partner in PARTNERS.values()
    }
    return [name for name in TOPICS if name not in inbound]

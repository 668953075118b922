"""What does Kafka do here? Partitions in memory: at least once, in order, with generations, failing."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, KafkaTimeoutError
from msgspec.json import Decoder

from contracts.answers import Accepted, Rejected
from contracts.topics import PARTITIONS
from services.chassis.ids import partition_of
from tests.simulation.schedule import Schedule

NOT_SENT, NO_WORD = "not sent", "no word"       # a send: it did not arrive; it did, and nobody says so
REFUSED, NO_REPLY = "refused", "no reply"       # a commit of offsets
LATE, BLACK_HOLE = "late", "black hole"         # both: the answer takes its time; nobody ever says anything
PATIENCE_SECONDS, COMMIT_SECONDS = 15.0, 40.0   # of the producer; of the consumer, if the lane had none
_answer = Decoder(Accepted | Rejected).decode
Headers = list[tuple[str, bytes]]


class Letter(NamedTuple):
    """A record on its way in."""

    key: bytes | None
    value: bytes | None
    headers: Headers


class Broker:
    """Topics, and what each group has committed. is_up: whether it can be reached; cut_off: who cannot."""

    def __init__(self, schedule: Schedule, millis: Callable[[], int]) -> None:
        self.schedule, self._millis = schedule, millis
        self.logs: dict[TopicPartition, list[ConsumerRecord]] = {}
        self.committed: dict[tuple[str, TopicPartition], int] = {}
        self.just_committed: list[tuple[str, TopicPartition, int]] = []     # by whom, since somebody looked
        self.groups: dict[str, Group] = {}
        self.partitions = PARTITIONS        # of each topic
        self.begins: dict[TopicPartition, int] = {}     # where retention has taken away what stood before
        self.is_up = True
        self.cut_off: set[str] = set()
        self.answers: dict[str, list[Accepted | Rejected]] = {}     # by request id
        self.order: list[tuple[int, ConsumerRecord]] = []           # everything, with its step
        self.under_way: list[asyncio.Task[None] | asyncio.TimerHandle] = []     # slow sends, and who waits

    def reachable(self, service: str) -> bool:
        """Whether this service's processes get through."""
        return self.is_up and service not in self.cut_off

    def append(self, topic: str, part: int | None, letter: Letter) -> ConsumerRecord:
        """At the end of its partition; without one, where its key belongs."""
        if part is None:
            part = partition_of((letter.key or b"").decode("utf-8", "replace"))
        partition = TopicPartition(topic, part)
        log = self.logs.setdefault(partition, [])
        record = ConsumerRecord(
            topic=topic, partition=part, offset=len(log), timestamp=self._millis(), timestamp_type=0,
            key=letter.key, value=letter.value, checksum=None, serialized_key_size=len(letter.key or b""),
            serialized_value_size=len(letter.value or b""), headers=tuple(letter.headers),
        )
        log.append(record)
        self.order.append((self.schedule.steps, record))
        kind = dict(letter.headers).get("ce_type")
        if kind is not None and kind.startswith(b"answer.") and letter.value:
            answer = _answer(letter.value)
            self.answers.setdefault(answer.request_id, []).append(answer)
        return record

    def end(self, partition: TopicPartition) -> int:
        """The next record's offset."""
        return len(self.logs.get(partition, ()))

    def end_all(self) -> None:
        """Nothing is under way any more."""
        for each in self.under_way:
            each.cancel()

    def begin(self, partition: TopicPartition) -> int:
        """The first offset that is still there."""
        return self.begins.get(partition, 0)

    def expire(self, partition: TopicPartition, before: int) -> None:
        """Nobody can read what stands before this offset any more."""
        self.begins[partition] = max(before, self.begin(partition))

    def facts(self, kind: str, person_id: str) -> list[ConsumerRecord]:
        """What was said of a person under this type."""
        return [r for _, r in self.order
                if r.key == person_id.encode() and dict(r.headers).get("ce_type") == kind.encode()]


class _Batch:
    def __init__(self) -> None:
        self.letters: list[Letter] = []

    def append(
        self, *, key: bytes | None, value: bytes | None, timestamp: None, headers: Headers
    ) -> object:
        """Never full."""
        assert timestamp is None
        self.letters.append(Letter(key, value, headers))
        return self

    def close(self) -> None:
        """It goes now."""


class Producer:
    """As the relay needs one. actor: whose; a send is a gate."""

    def __init__(self, broker: Broker, actor: str) -> None:
        self._broker, self._actor = broker, actor
        self._service = actor.split(".")[0]

    def create_batch(self) -> _Batch:
        """An empty one."""
        return _Batch()

    async def send_batch(self, batch: _Batch, topic: str, *, partition: int) -> Any:
        """A future that is done: appended, or failed."""
        schedule = self._broker.schedule
        fault = await schedule.gate(f"{self._actor}.send", "send", (NOT_SENT, NO_WORD, LATE, BLACK_HOLE))
        done = schedule.loop.create_future()
        if fault in (LATE, BLACK_HOLE):
            self._lose_patience_with(done)
            if fault == LATE:
                slow = asyncio.ensure_future(self._slowly(batch, topic, partition, done))
                self._broker.under_way.append(slow)
            return done
        if fault == NOT_SENT or not self._broker.reachable(self._service):
            _fail(done)
            return done
        self._arrive(batch, topic, partition)
        if fault == NO_WORD:
            _fail(done)
        else:
            done.set_result(None)
        return done

    def _arrive(self, batch: _Batch, topic: str, partition: int) -> None:
        for letter in batch.letters:
            record = self._broker.append(topic, partition, letter)
            kind = dict(letter.headers).get("ce_type", b"").decode()
            self._broker.schedule.note(f"{self._actor} says {kind} {topic}/{partition}/{record.offset}")

    def _lose_patience_with(self, done: "asyncio.Future[None]") -> None:
        """The client's own time-out."""
        def fail() -> None:
            if not done.done():
                _fail(done)

        timer = self._broker.schedule.loop.call_later(PATIENCE_SECONDS, fail)
        self._broker.under_way.append(timer)
        done.add_done_callback(lambda _: timer.cancel())

    async def _slowly(
        self, batch: _Batch, topic: str, partition: int, done: "asyncio.Future[None]"
    ) -> None:
        """It arrives, whatever has become of who sent it; later the answer does."""
        schedule, wire = self._broker.schedule, f"wire {self._actor}"
        await schedule.gate(wire, "arrives", (), lambda: self._broker.reachable(self._service))
        self._arrive(batch, topic, partition)
        await schedule.gate(wire, "answers")
        if not done.done():
            done.set_result(None)


def _fail(done: "asyncio.Future[None]") -> None:
    done.set_exception(KafkaTimeoutError("simulated"))
    done.exception()        # perhaps nobody waits for it any more, and that is no news


class Group:
    """A consumer group. Its partitions are given out anew whenever a member comes or goes."""

    def __init__(self, name: str, topics: list[str]) -> None:
        self.name, self.topics = name, topics
        self.members: list[Consumer] = []
        self.generation = 0
        self.read: dict[TopicPartition, set[int]] = {}      # what was fetched, and not passed since

    def give_out(self, partitions: int) -> None:
        """Every partition to one of the members; the same number of each topic to the same one."""
        self.generation += 1
        turn = self.generation
        for at, member in enumerate(self.members):
            member.generation = self.generation
            member.owned = {
                TopicPartition(topic, part) for topic in self.topics for part in range(partitions)
                if (part + turn) % len(self.members) == at
            }


class Consumer:
    """As a lane needs one."""

    def __init__(self, broker: Broker, group: Group, actor: str) -> None:
        self._broker, self.group, self.actor = broker, group, actor
        self.service = actor.split(".")[0]
        self.owned: set[TopicPartition] = set()
        self.positions: dict[TopicPartition, int] = {}
        self.generation = -1
        self.ready = False          # the comparison after an assignment is through
        self.has_left = False       # for good

    def assignment(self) -> set[TopicPartition]:
        """What it believes to own."""
        return set(self.owned)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Its next record."""
        self.positions[partition] = offset

    def highwater(self, partition: TopicPartition) -> int:
        """The partition's end."""
        return self._broker.end(partition)

    async def committed(self, partition: TopicPartition) -> int | None:
        """What the broker knows of the group."""
        return self._broker.committed.get((self.group.name, partition))

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Where each of them begins now."""
        return {partition: self._broker.begin(partition) for partition in partitions}

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Where each of them ends now."""
        return {partition: self._broker.end(partition) for partition in partitions}

    async def offsets_for_times(self, instants: dict[TopicPartition, int]) -> dict[TopicPartition, Any]:
        """The first record of each that was written at that instant or later."""
        logs, begin = self._broker.logs, self._broker.begin
        return {
            at: next((r for r in logs.get(at, [])[begin(at):] if r.timestamp >= millis), None)
            for at, millis in instants.items()
        }

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        """CommitFailedError: the group has moved on."""
        schedule = self._broker.schedule
        faults = (REFUSED, NO_REPLY, LATE, BLACK_HOLE)
        fault = await schedule.gate(f"{self.actor}.commit", "offsets", faults)
        if fault == BLACK_HOLE:
            nothing: asyncio.Future[None] = schedule.loop.create_future()
            timer = schedule.loop.call_later(COMMIT_SECONDS, _fail, nothing)
            try:
                await nothing
            finally:
                timer.cancel()
        if fault == REFUSED or self.generation != self.group.generation:
            raise CommitFailedError("simulated")
        if not self._broker.reachable(self.service):
            raise KafkaTimeoutError("simulated")
        for partition, offset in sorted(offsets.items()):
            self._broker.committed[self.group.name, partition] = offset
            self._broker.just_committed.append((self.group.name, partition, offset))
        if fault == NO_REPLY:
            raise KafkaTimeoutError("simulated")
        if fault == LATE:
            await schedule.gate(f"{self.actor}.commit", "answer")

    def start(self) -> None:
        """From what is committed."""
        known = self._broker.committed
        self.positions = {p: known.get((self.group.name, p), 0) for p in sorted(self.owned)}

    def leave(self) -> None:
        """The group hears goodbye; nothing is taken from this one any more."""
        self.has_left, self.ready, self.generation = True, False, -1
        if self in self.group.members:
            self.group.members.remove(self)

    def again(self) -> None:
        """From what is committed, once more; never past its place: only an assignment may do that."""
        known = self._broker.committed
        self.positions = {p: min(at, known.get((self.group.name, p), 0)) for p, at in self.positions.items()}

    def has_records(self) -> bool:
        """Whether a fetch would bring some."""
        if not self._broker.reachable(self.service) or self.generation != self.group.generation:
            return False
        begin, end = self._broker.begin, self._broker.end
        return self.ready and any(max(at, begin(p)) < end(p) for p, at in self.positions.items())

    def take(self, most: int) -> tuple[ConsumerRecord, ...]:
        """The next ones of each partition, so many in all; out of range: from its begin on."""
        taken: list[ConsumerRecord] = []
        for partition, at in sorted(self.positions.items()):
            at = max(at, self._broker.begin(partition))
            run = self._broker.logs.get(partition, [])[at:at + most - len(taken)]
            self.positions[partition] = at + len(run)
            self.group.read.setdefault(partition, set()).update(range(at, at + len(run)))
            taken += run
        return tuple(taken)

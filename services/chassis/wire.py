"""What do these bytes mean? Records become arrivals, are skipped by their header, or are set aside with a
reason.
"""

import re
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from aiokafka import ConsumerRecord
from msgspec import Struct
from msgspec.json import Decoder, encode

from contracts.message import CONTRACTS
from contracts.operations import OPERATORS
from contracts.partners import PARTNERS, Partner
from contracts.reasons import Reason, refused
from contracts.topics import MAX_MESSAGE_BYTES, OPERATED, TOPICS
from services.chassis import forbidden, metrics, misfits, structured, trust
from services.chassis.arrival import Arrival, Raw, RequestKey, Unreadable
from services.chassis.ids import millis
from services.chassis.keys import Keyring, SealBroken
from services.chassis.refs import number_of
from services.chassis.subscriptions import Subscription, Subscriptions
from services.chassis.telemetry import log, masked

REMEMBERED = 100_000
LONGEST_KEY = 128
# of one message: all are locked at once, and one parked one stops them all; an owner speaks of each person
MOST_REFS = 100
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,64}")
_UUID, _TYPE = re.compile(r"[0-9a-f-]{36}"), re.compile(r"[a-z0-9_.]{1,80}")
_NUMBER = re.compile(rb"[0-9]{1,9}")  # what a row of ours holds
_AHEAD_MS = 300_000
_TYPE_AT = 3        # among the headers, as our relay writes them: a look where it stands nearly always
_untyped = Decoder().decode
_PARTNER_OF_TOPIC: dict[str, Partner] = {partner.topic: partner for partner in PARTNERS.values()}
_ANSWERS = frozenset({"answer.accepted.v1", "answer.rejected.v1"})


class Reader:
    """Reads what arrives for one lane of one service. Nothing in it raises: a bad record is a value.

    lane: None: all of them, for what comes back from where it was parked. parks_for: the topics whose
    undecodable records this lane keeps (the owner's, in the first lane that reads them).
    """

    def __init__(
        self, subscriptions: Subscriptions, lane: str | None, keys: Keyring, parks_for: frozenset[str]
    ) -> None:
        self.service, self.keys, self.parks_for = subscriptions.service, keys, parks_for
        ours = [s for s in subscriptions.by_type.values() if lane in (None, s.lane) and s.contract]
        self._mine = {s.type.encode(): s for s in ours}
        self._all = subscriptions.by_type
        self._counts = lane is not None      # what comes back comes out of its order
        # the last number of each aggregate heard lately, oldest first
        self._sequences: dict[tuple[str, bytes], int] = {}
        self._known = frozenset(name.encode() for name in (*CONTRACTS, *_ANSWERS))
        self._others = self._known - self._mine.keys()

    def records(self, run: Sequence[ConsumerRecord]) -> tuple[list[Arrival], list[Unreadable]]:
        """What the records of one topic are to this lane. Half of all records are other people's: they cost
        one look at their headers.
        """
        arrivals, unreadable = list[Arrival](), list[Unreadable]()
        others = self._others if run[0].topic not in self.parks_for else frozenset[bytes]()
        for r in run:
            headers = r.headers
            kind = _type_of(headers)
            if kind in others:
                continue
            what = self._read(Raw(r.topic, r.partition, r.offset, r.key, headers, r.value, r.timestamp), kind)
            if isinstance(what, Arrival):
                arrivals.append(what)
            elif what is not None:
                unreadable.append(_without_secret(what))
        return arrivals, unreadable

    def read(self, raw: Raw) -> Arrival | Unreadable | None:
        """What a record is to this lane; None: known, and not ours."""
        what = self._read(raw, _type_of(raw.headers))
        return _without_secret(what) if isinstance(what, Unreadable) else what

    def _read(self, raw: Raw, kind: bytes | None, signed: bytes | None = None) -> Arrival | Unreadable | None:
        """kind: its ce_type. signed: the bytes that a structured event came in."""
        subscription = self._mine.get(kind) if kind is not None else None
        if subscription is None and kind in self._known:
            return self._foreign(raw, (kind or b"").decode())
        try:
            if subscription is not None:
                return self._mine_read(raw, subscription, signed)
            unpacked = structured.unpacked(raw)
            if unpacked is None:
                return self._stranger(raw, kind)
            what = self._read(unpacked, _type_of(unpacked.headers), raw.value)
            return what._replace(raw=raw) if isinstance(what, Unreadable) else what
        except Exception as error:  # noqa: BLE001 -- a stranger's bytes are kept, whatever they do
            type_text = _shown(kind or b"")
            return Unreadable(raw, Reason.BODY_INVALID, f"{type(error).__name__}: {error}"[:300], type_text)

    def _mine_read(
        self, raw: Raw, subscription: Subscription, signed: bytes | None
    ) -> Arrival | Unreadable | None:
        partner = _PARTNER_OF_TOPIC.get(raw.topic)
        key, value = raw.key or b"", raw.value or b""
        if len(value) > MAX_MESSAGE_BYTES or len(key) > LONGEST_KEY or b"\0" in key:
            what = Unreadable(raw, Reason.SCHEMA_INVALID, "too large, or its key is none", subscription.type)
            return None if self._is_kept_elsewhere(raw, subscription) else what
        if partner is None:
            return self._ours(raw, subscription)
        if not subscription.is_command:
            return self._foreign_fact(raw, subscription.type)
        return self._partners(raw, subscription, partner, signed)

    def again(self, raw: Raw, type: str, *, trusted: bool) -> Arrival | Unreadable | None:
        """A parked message once more. trusted: it was authentic when it was parked, so its age does not
        count.
        """
        subscription = self._all.get(type)
        if subscription is None:
            return self.read(raw)
        if subscription.contract is None:
            return self.own(raw, type)
        if not trusted:
            return self.read(raw)
        partner = _PARTNER_OF_TOPIC.get(raw.topic)
        try:
            return self._command(raw, subscription, partner) if partner else self._ours(raw, subscription)
        except Exception as error:  # noqa: BLE001 -- a stranger's bytes are kept, whatever they do
            return Unreadable(raw, Reason.BODY_INVALID, f"{error}"[:300], type)

    def own(self, raw: Raw, type: str) -> Arrival | Unreadable:
        """A timer from a row of ours, which another version of this code may have written."""
        subscription = self._all.get(type)
        if subscription is None:
            return Unreadable(raw, Reason.TYPE_UNKNOWN, type, type)
        try:
            return internal(subscription, raw)
        except Exception as error:  # noqa: BLE001 -- one row of another shape must not stop all others
            return Unreadable(raw, Reason.BODY_INVALID, f"{error}"[:300], type)

    def _foreign(self, raw: Raw, type: str) -> Unreadable | None:
        """A known type that another lane or service handles, if that one reads this topic; else nobody would
        ever say no.
        """
        if raw.topic not in self.parks_for or type in self._all:
            return None
        contract = CONTRACTS.get(type)
        readers = () if raw.topic == OPERATORS else TOPICS[raw.topic].readers  # there they read orders only
        if contract is not None and contract.kind == "command" and contract.owner in readers:
            return None
        return Unreadable(raw, Reason.NOT_PERMITTED, f"{type} does not belong on {raw.topic}", type)

    def _foreign_fact(self, raw: Raw, type: str) -> Unreadable | None:
        """A fact on a partner's topic: only its owner says it, on its own topic."""
        return (
            Unreadable(raw, Reason.NOT_PERMITTED, f"{type} is a fact", type)
            if raw.topic in self.parks_for
            else None
        )

    def _stranger(self, raw: Raw, kind: bytes | None) -> Unreadable | None:
        if raw.topic not in self.parks_for:
            return None
        if kind is None:
            return Unreadable(raw, Reason.BODY_INVALID, "no ce_type header")
        text = _shown(kind)
        stem, _, version = text.rpartition(".v")
        known = version.isdigit() and any(name.rpartition(".v")[0] == stem for name in CONTRACTS)
        return Unreadable(raw, Reason.VERSION_UNSUPPORTED if known else Reason.TYPE_UNKNOWN, text, text)

    def _ours(self, raw: Raw, subscription: Subscription) -> Arrival | Unreadable | None:
        head = dict(raw.headers)
        event_id = (head["ce_id"] or b"").decode()
        ahead_ms = millis(event_id) - time.time_ns() // 1_000_000  # of now: it comes of age
        if ahead_ms > _AHEAD_MS:
            return Unreadable(raw, Reason.ID_FROM_FUTURE, f"{ahead_ms} ms ahead", subscription.type)
        if raw.value is None:
            nothing = Unreadable(raw, Reason.BODY_INVALID, "no value", subscription.type)
            return None if subscription.compacted else nothing
        if subscription.compacted and not _NUMBER.fullmatch(head.get("ce_sequence") or b""):
            return Unreadable(raw, Reason.BODY_INVALID, "no ce_sequence", subscription.type)
        try:
            message = subscription.decode(raw.value)
        except msgspec.MsgspecError as error:
            return Unreadable(raw, Reason.SCHEMA_INVALID, str(error)[:300], subscription.type)
        refs = tuple(subscription.refs(message))
        if len(refs) > MOST_REFS:
            return Unreadable(raw, Reason.FANOUT_TOO_WIDE, f"{len(refs)} refs", subscription.type)
        kind = subscription.type
        arrival = Arrival(type=kind, message=message, subscription=subscription, refs=refs, raw=raw)
        arrival.key = (raw.key or b"").decode()
        arrival.time = (head.get("ce_time") or b"").decode()
        if not subscription.compacted:
            arrival.event_id = event_id
            if self._counts:
                self._watch_sequence(raw.topic, head)
        return arrival

    def _watch_sequence(self, topic: str, head: dict[str, bytes | None]) -> None:
        """A fact that skips one of its aggregate's raises an alarm; it is handled all the same, and so is
        the late one.
        """
        subject, number = head.get("ce_subject"), head.get("ce_sequence")
        if not subject or not number or not number.isdigit():
            return
        of = (topic, subject)
        this, last = int(number), self._sequences.pop(of, 0)
        if last and this > last + 1:
            metrics.fact_gap(self.service, topic)
            about = subject.decode("ascii", "replace")
            log.error("sequence_gap", topic=topic, subject=about, after=last, got=this)
        self._sequences[of] = max(this, last)
        if len(self._sequences) > REMEMBERED:
            del self._sequences[next(iter(self._sequences))]

    def _partners(
        self, raw: Raw, subscription: Subscription, partner: Partner, signed: bytes | None
    ) -> Arrival | Unreadable | None:
        """An order that every service hears, and that none of them can take, is kept by one of them."""
        what = self._believed(raw, subscription, partner, signed)
        elsewhere = isinstance(what, Unreadable) and self._is_kept_elsewhere(raw, subscription)
        return None if elsewhere else what

    def _is_kept_elsewhere(self, raw: Raw, subscription: Subscription) -> bool:
        return _is_order(subscription) and raw.offset is not None and raw.topic not in self.parks_for

    def _believed(
        self, raw: Raw, subscription: Subscription, partner: Partner, signed: bytes | None
    ) -> Arrival | Unreadable | None:
        contract, head = subscription.contract, dict(raw.headers)
        if len(head) != len(raw.headers):
            return Unreadable(raw, Reason.BODY_INVALID, "a header stands twice", subscription.type)
        reason = trust.verify(
            self.keys, topic=raw.topic, key=raw.key or b"", headers=head,
            value=signed or raw.value or b"", broker_ms=raw.at_ms, money=bool(contract and contract.money),
        )
        if reason is not None:
            return Unreadable(raw, reason, "", subscription.type)
        path = forbidden.find(signed or raw.value or b"")
        if path is not None:
            return Unreadable(raw, Reason.SECRET_IN_MESSAGE, path, subscription.type, secret=True)
        return self._command(raw, subscription, partner)

    def _command(self, raw: Raw, subscription: Subscription, partner: Partner) -> Arrival | Unreadable | None:
        try:
            message: Any = subscription.decode(raw.value or b"")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return self._misfit(raw, subscription, partner, str(error))
        if unfit := misfits.misfit(message, subscription.instants, raw.value or b""):
            return self._misfit(raw, subscription, partner, unfit)
        if _is_order(subscription) and not self._is_for_us(raw, message.service):
            return None
        head = dict(raw.headers)
        arrival = Arrival(
            type=subscription.type, message=message, subscription=subscription, refs=(), raw=raw
        )
        arrival.key = (raw.key or b"").decode()
        arrival.time = (head.get("ce_time") or b"").decode()
        arrival.partner = partner.code
        arrival.request = RequestKey(partner.code, message.request_id)
        expected = getattr(message, subscription.contract.key) if subscription.contract else arrival.key
        if subscription.type not in partner.may:
            arrival.refusal = refused(Reason.NOT_PERMITTED, field="ce_type", got=subscription.type)
        elif arrival.key != expected and subscription.contract:
            rule = f"the key is the {subscription.contract.key}"
            arrival.refusal = refused(Reason.SCHEMA_INVALID, field="record key", rule=rule, expected=expected)
            arrival.key = expected      # what stood there may be anything, an ID number too
        elif _is_order(subscription) and message.service not in OPERATED:
            expected = ", ".join(OPERATED)
            arrival.refusal = refused(Reason.SCHEMA_INVALID, field="service", expected=expected)
        else:
            self._admit(arrival, subscription, arrival.request)
        return arrival

    def _is_for_us(self, raw: Raw, service: object) -> bool:
        """An operator's order is for the service it names; one to nobody is refused by the topic's owner."""
        return service == self.service or (service not in OPERATED and raw.topic in self.parks_for)

    def _admit(self, arrival: Arrival, subscription: Subscription, request: RequestKey) -> None:
        """What it touches and what it says, by which it is known again; refused when that cannot be had."""
        refs = subscription.refs(arrival.message)
        if len(refs) > MOST_REFS:
            arrival.refusal = refused(
                Reason.FANOUT_TOO_WIDE, expected=f"at most {MOST_REFS}", got=str(len(refs))
            )
            return
        try:
            arrival.digest = self.keys.request_digest(_canonical(arrival.message, subscription, self.keys))
        except SealBroken as broken:
            arrival.refusal = refused(
                Reason.SCHEMA_INVALID, field=str(broken), rule="the seal opens with the key it names"
            )
            return
        arrival.refs = (*refs, request_ref(request))

    def _misfit(
        self, raw: Raw, subscription: Subscription, partner: Partner, error: str
    ) -> Arrival | Unreadable | None:
        """Authentic, but not as the contract says: answered if the request can be named, else parked."""
        try:
            body = _untyped(raw.value or b"")
            request_id = body["request_id"]
            if not isinstance(request_id, str) or not REQUEST_ID.fullmatch(request_id):
                raise ValueError(request_id)
            if _is_order(subscription) and not self._is_for_us(raw, body.get("service")):
                return None
        except (msgspec.MsgspecError, TypeError, KeyError, ValueError, RecursionError):
            return Unreadable(raw, Reason.SCHEMA_INVALID, error[:300], subscription.type)
        error = error[:300]     # it may quote the partner, and an answer has a size
        arrival = Arrival(type=subscription.type, message=body, subscription=subscription, refs=(), raw=raw)
        key = (raw.key or b"").decode("utf-8", "replace")
        arrival.key = key if key in body.values() or _UUID.fullmatch(key) else ""
        arrival.partner, arrival.request = partner.code, RequestKey(partner.code, request_id)
        arrival.refusal = refused(Reason.SCHEMA_INVALID, field=misfits.path(error), rule=error)
        return arrival


def _without_secret(what: Unreadable) -> Unreadable:
    """What is kept of it: no byte, if it carries what must not travel, whoever sent it. Of bytes that are no
    JSON nobody can say; they are not kept either.
    """
    if what.secret:
        return what
    path = forbidden.find(what.raw.value or b"")
    if path is None:
        return what
    if path == "?":
        return what._replace(secret=True)
    return what._replace(reason=Reason.SECRET_IN_MESSAGE, detail=path, secret=True)


def _type_of(headers: tuple[tuple[str, bytes | None], ...]) -> bytes | None:
    try:
        name, text = headers[_TYPE_AT]
        if name == "ce_type":
            return text
    except IndexError:
        pass
    for name, text in headers:
        if name == "ce_type":
            return text
    return None


def _shown(kind: bytes) -> str:
    """A type as topics and auditors may see it: whoever wrote it need not have meant a type."""
    text = kind.decode("utf-8", "replace")[:80]
    return text if _TYPE.fullmatch(text) and masked(text) == text else "?"


def _is_order(subscription: Subscription) -> bool:
    """Whether it is an operator's, which every service hears."""
    return subscription.is_command and subscription.contract.owner == "any"  # type: ignore[union-attr]


def request_ref(request: RequestKey) -> int:
    """The ref of a request: two deliveries of one command meet at one lock."""
    return number_of(f"request|{request.partner}|{request.request_id}")


def internal(subscription: Subscription, raw: Raw) -> Arrival:
    """A timer or the outcome of a call: our own struct from our own row. Its headers name the instant of a
    timer, and the journey that it goes on with.
    """
    message = subscription.decode(raw.value or b"")
    arrival = Arrival(
        type=subscription.type,
        message=message,
        subscription=subscription,
        refs=tuple(subscription.refs(message)),
        raw=raw,
    )
    head = dict(raw.headers)
    arrival.journey = arrival.journey or (head.get("journey") or b"").decode()
    if run_at := head.get("run_at"):
        arrival.time = run_at.decode()
        arrival.run_at = datetime.fromisoformat(arrival.time)
    return arrival


def _canonical(message: Struct, subscription: Subscription, keys: Keyring) -> bytes:
    """The command's body with its seals opened: sealing twice gives other bytes, the same wish keeps one
    digest.
    """
    if not subscription.seals:
        return encode(message)
    body = {name: getattr(message, name) for name in message.__struct_fields__}
    place = body.get("channel_ref") or body["request_id"]
    for name, inside in subscription.seals.items():
        try:
            body[name] = keys.open(body[name], inside, place=place)
        except SealBroken as broken:
            raise SealBroken(f"{name}.{broken}") from None
    return encode(body)

"""Which function handles which message? Each service fills one list; the engine looks types up in it."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from msgspec import Struct
from msgspec.json import Decoder

from contracts.answers import ANSWER_TYPES, Answer
from contracts.message import Contract, Sealed, contract_of
from contracts.partners import PARTNERS
from contracts.topics import TOPICS
from services.chassis.refs import Ref
from services.chassis.transaction import Transaction

Message = TypeVar("Message", bound=Struct)
Batch = list[Message]
Handler = Callable[[Batch[Any], Transaction], Awaitable[None]]
LANES = ("money", "bulk")


class Subscription:
    """One type of message, who handles it, what it may change, and in which lane it travels.

    contract is None for what never leaves the service: timers and outcomes of calls, named by their class.
    """

    def __init__(
        self, message: type[Struct], handler: Handler, refs: Callable[[Any], list[Ref]], lane: str
    ) -> None:
        self.contract: Contract | None = None
        self.type = message.__name__
        try:
            if issubclass(message, Answer):
                self.contract = _said_to_partners(message)
            else:
                self.contract = contract_of(message)
            self.type = self.contract.type
        except KeyError:
            pass  # an internal message
        self.message, self.handler, self.refs, self.lane = message, handler, refs, lane
        self.decode = Decoder(message).decode
        self.is_command = self.contract is not None and self.contract.kind == "command"
        self.seals = _seals(message) if self.is_command else {}
        self.instants = _instants(message) if self.is_command else ()
        topic = TOPICS.get(self.contract.topic) if self.contract else None
        self.compacted = topic is not None and topic.compacted


class Subscriptions:
    """The list of one service: `on = Subscriptions("billing")`, then `@on(Fact, refs=…, lane=…)` above each
    handler.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self.by_type: dict[str, Subscription] = {}

    def __call__(
        self, message: type[Message], *, refs: Callable[[Message], list[Ref]], lane: str = ""
    ) -> Callable[[Callable[[Batch[Message], Transaction], Awaitable[None]]], Handler]:
        """Subscribe a handler. refs: all that a message may change, or whose uniqueness it protects.

        lane: a fact must name it, for a forgotten one would stand before payments; everything else is money.
        """
        def subscribe(handler: Callable[[Batch[Message], Transaction], Awaitable[None]]) -> Handler:
            subscription = Subscription(message, handler, refs, lane)
            if not lane and (subscription.is_command or subscription.contract is None):
                subscription.lane = "money"
            if subscription.lane not in LANES:
                raise ValueError(f"{subscription.type}: lane {lane!r}, expected one of {LANES}")
            if subscription.type in self.by_type:
                raise ValueError(f"{self.service} handles {subscription.type} twice")
            contract = subscription.contract
            if contract and contract.kind == "command" and contract.owner not in (self.service, "any"):
                raise ValueError(
                    f"{subscription.type} is a command to {contract.owner}, not to {self.service}"
                )
            self.by_type[subscription.type] = subscription
            return handler

        return subscribe

    def topics(self, lane: str) -> list[str]:
        """The topics that a lane reads: where its facts are published, and the partners' that may send its
        commands.
        """
        names = set()
        for subscription in self.by_type.values():
            if subscription.lane != lane or subscription.contract is None:
                continue
            if subscription.is_command:
                names |= {
                    p.topic for p in PARTNERS.values() if subscription.type in p.may and p.kind != "operator"
                }
            else:
                names |= _published_on(subscription.contract)
        return sorted(names)


def _said_to_partners(answer: type[Answer]) -> Contract:
    """What has no contract of its own: every service gives answers, and who only listens hears them all."""
    return Contract(
        type=ANSWER_TYPES[answer], kind="answer", owner="any", message=answer, subject="request_id"
    )


def _published_on(contract: Contract) -> set[str]:
    """Where a fact is said: one topic, or each service's own for what the engine says of every service; an
    answer is said on the topic of its partner.
    """
    if contract.kind == "answer":
        return {partner.replies for partner in PARTNERS.values()}
    return {name for name, topic in TOPICS.items() if name == contract.topic.format(service=topic.owner)}


def _seals(message: type[Struct]) -> dict[str, type[Struct]]:
    """The sealed fields of a message, and what is inside each."""
    return {
        name: get_args(kind)[0]
        for name, kind in get_type_hints(message).items()
        if get_origin(kind) is Sealed
    }


def _instants(message: type[Struct]) -> tuple[str, ...]:
    """The fields that hold an instant."""
    return tuple(name for name, kind in get_type_hints(message).items() if kind is datetime)

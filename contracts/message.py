"""What is a message? Facts and commands, how they are named on the wire, who says them and who handles them.
"""

from collections.abc import Callable
from datetime import date, datetime
from typing import Annotated, Generic, NewType, TypeVar

from msgspec import Meta, Struct

Inside = TypeVar("Inside")
Message = TypeVar("Message", bound=type[Struct])

# Ids of ours are uuid7 texts. In commands they come from outside, so their form is checked while decoding.
PersonId = NewType("PersonId", str)
EnrollmentId = NewType("EnrollmentId", str)
ObligationId = NewType("ObligationId", str)
OrderId = NewType("OrderId", str)
Uuid = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
RequestId = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,64}$")]
Code = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]

Fen = Annotated[int, Meta(ge=0, le=10**13, description="whole fen, CNY")]
PaidFen = Annotated[int, Meta(gt=0, le=10**13, description="whole fen, CNY, money that moved")]
Instant = Annotated[datetime, Meta(tz=True, description="RFC 3339 with offset")]
CivilDate = Annotated[date, Meta(description="civil date in Asia/Shanghai")]
Year = Annotated[int, Meta(ge=1990, le=2200, description="insurance year")]


class Sealed(Struct, Generic[Inside], frozen=True, kw_only=True):
    """A C2 value on its way: AES-256-GCM, readable by one reader set, bound to the place it was sealed for.

    reader: the service that holds the key. key_id: which of its keys. box: base64 of nonce, ciphertext and
    tag.
    """

    reader: str
    key_id: str
    box: str


MessageClass = type[Struct]


class Contract(Struct, frozen=True, kw_only=True):
    """What the project knows about one message type beside its fields.

    kind is "fact" or "command"; owner publishes a fact or handles a command; topic is where a fact is
    published (commands arrive on the topic of whoever sends them); subject names the field with the
    aggregate's id (ce_subject).
    """

    type: str
    kind: str
    owner: str
    message: MessageClass
    subject: str
    topic: str = ""
    key: str = "person_id"
    money: bool = False


CONTRACTS: dict[str, Contract] = {}
_BY_CLASS: dict[type[Struct], Contract] = {}


def fact(
    *, by: str, topic: str, subject: str, key: str = "person_id", version: int = 1
) -> Callable[[Message], Message]:
    """Declare a fact: something that happened, said once by its owner on its owner's topic."""

    def declare(message: Message) -> Message:
        _register(
            Contract(type=_type_name(by, message, version), kind="fact", owner=by, message=message,
                     subject=subject, topic=topic, key=key)
        )
        return message

    return declare


def command(*, to: str, subject: str = "request_id", key: str = "person_id", money: bool = False,
            version: int = 1) -> Callable[[Message], Message]:
    """Declare a command: a wish that exactly one service handles and answers.

    money: the message claims that money moved, so it must be signed asymmetrically.
    """

    def declare(message: Message) -> Message:
        _register(
            Contract(type=_type_name(to, message, version), kind="command", owner=to, message=message,
                     subject=subject, key=key, money=money)
        )
        return message

    return declare


def contract_of(message: type[Struct] | Struct) -> Contract:
    """The contract of a message or of its class. KeyError: it was never declared."""
    return _BY_CLASS[message if isinstance(message, type) else type(message)]


def _register(contract: Contract) -> None:
    if contract.type in CONTRACTS:
        raise ValueError(f"{contract.type} is declared twice")
    CONTRACTS[contract.type] = contract
    _BY_CLASS[contract.message] = contract


def _type_name(owner: str, message: type[Struct], version: int) -> str:
    words = "".join("_" + c.lower() if c.isupper() else c for c in message.__name__).lstrip("_")
    return f"{owner}.{words}.v{version}"

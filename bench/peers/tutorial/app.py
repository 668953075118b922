"""What stands around the handlers of the tutorial's peer? Settings, an engine, a session for each message."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import msgspec
from faststream import Depends
from faststream.kafka import KafkaBroker, KafkaRouter
from faststream.kafka.subscriber.usecase import LogicSubscriber
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from bench.peers.tutorial.messages import Accepted, Request
from bench.raw_loop import Place
from sandbox.lifeline import end_with_parent
from services.chassis.ids import uuid7

place = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Place)
_schema = place.prefix.rstrip(".") + "_" + place.service
engine = create_async_engine(
    place.dsn.replace("postgresql", "postgresql+asyncpg", 1) + "?ssl=disable",
    execution_options={"schema_translate_map": {place.service: _schema, None: _schema}},
)


async def get_session() -> AsyncIterator[AsyncSession]:
    """One for each message."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]


def hears(router: KafkaRouter, topic: str) -> LogicSubscriber[Any]:
    """A subscriber of one topic."""
    return router.subscriber(
        topic, group_id=f"tutorial-{place.service}-{topic}", auto_offset_reset="earliest"
    )


def kind(name: str) -> Any:
    """A filter for one type of message."""
    return lambda message: message.headers["ce_type"] == name


def now() -> datetime:
    """The business clock."""
    return datetime.now(UTC) + timedelta(seconds=place.skew_seconds)


async def say(publisher: Any, name: str, what: SQLModel, key: str) -> None:
    """Publish one message; the driver finds its type in the fourth header."""
    await publisher.publish(what, key=key.encode(), headers={"ce_id": uuid7(), "ce_type": name})


def accepted(command: Any, name: str, **result: str) -> Accepted:
    """An answer."""
    return Accepted(request_id=command.request_id, command=name, answered_at=now(), result=result)


def request(partner: str, command: Any, answer: Accepted) -> Request:
    """The row that remembers an answer."""
    return Request(
        partner=partner,
        request_id=command.request_id,
        command=answer.command,
        digest=sha256(command.model_dump_json().encode()).digest(),
        answer=answer.model_dump_json().encode(),
        key=command.person_id,
    )


async def run(router: KafkaRouter) -> None:
    """Consume until ended. What no handler wants is read and dropped; errors are logged, and it goes on."""
    for subscriber in router.subscribers:
        subscriber(_ignore)
    log = logging.getLogger("tutorial")
    log.setLevel(logging.ERROR)
    broker = KafkaBroker(
        place.kafka.bootstrap,
        acks="all",
        allow_auto_create_topics=False,
        logger=log,
        routers=[router],
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    end_with_parent()
    async with broker:
        await broker.start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await stop.wait()


async def _ignore(body: Any) -> None:
    pass


"""What does a running system make of two thousand broken messages? And would the fuzz notice if it did not?
"""

import json
import os
import signal
from collections.abc import AsyncIterator
from random import Random

import pytest
import pytest_asyncio

from sandbox.fuzz.citizen import journey
from sandbox.fuzz.due import Due, Payload
from sandbox.fuzz.payloads import Commands
from sandbox.fuzz.pushing import Push
from sandbox.fuzz.run import all_partners
from sandbox.stack import Stack
from services.chassis.ids import uuid7
from tests.fuzz.conftest import Running
from tests.story.conftest import canbao

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

RATE = 500.0
BRIEF_SECONDS = 4.0


@pytest.fixture(scope="module")
def stack(running: Running) -> Stack:
    return Stack.recall(running.folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def commands(running: Running, stack: Stack) -> AsyncIterator[Commands]:
    async with all_partners(running.folder, stack) as partners:
        run = f"noticed-{uuid7()[-12:]}"
        paid = await journey(partners["bank"], partners["990100"], Random(2), run)
        yield Commands(partners, Random(2), run, paid)


async def test_two_thousand_broken_messages_end_stop_and_mislead_nobody(running: Running) -> None:
    said = canbao(running.ours, "fuzz", "--payloads", "2000", "--seed", "1", "--json")
    assert said.returncode == 0, said.stdout + said.stderr
    report = json.loads(said.stdout)
    assert sum(report["outcomes"].values()) == 2000 + 60  # the first are the warm-up
    assert set(report["outcomes"]) == {"parked", "refused", "handled", "silent"}
    assert {"400", "422"} <= set(report["doors"])
    assert report["citizens"], "no citizen came through"


async def test_who_has_fuzzed_is_told_what_verify_will_name(running: Running) -> None:
    said = canbao(running.ours, "fuzz", "--payloads", "100", "--seed", "2")
    assert said.returncode == 0, said.stdout + said.stderr
    assert "✗ I12 " in canbao(running.ours, "verify").stdout
    assert said.stdout.splitlines()[-1] == "verify names what was forged (I12) until ./canbao reset"


def mistaken(payload: Payload) -> Payload:
    """With something else than what must become of it."""
    due = payload.due
    other = {
        "parked": due._replace(reasons=("CLOCK_SKEW",)) if due.reasons != ("CLOCK_SKEW",) else Due("silent"),
        "refused": due._replace(path="somewhere.else")
        if payload.number % 2
        else due._replace(reasons=("X",)),
        "handled": due._replace(reasons=("X",)),
    }
    return payload._replace(due=other[due.outcome])


async def test_what_becomes_of_a_payload_and_should_not_is_noticed(stack: Stack, commands: Commands) -> None:
    async with Push.over(stack) as push:
        await push.send(lambda number: mistaken(commands.one(number)), 1_000_000, 200, RATE)
        verdict = await push.verdict()
    assert len(verdict.mistaken) == 200
    assert not [line for line in verdict.mistaken if "no answer" in line or "nobody and" in line]
    assert verdict.stuck == []


async def test_a_service_that_stands_still_is_noticed_and_nothing_is_lost(
    running: Running, stack: Stack, commands: Commands
) -> None:
    billing = running.pids()["billing"]
    assert billing is not None
    async with Push.over(stack) as push:
        os.kill(billing, signal.SIGSTOP)
        try:
            await push.send(commands.one, 2_000_000, 200, RATE)
            frozen = await push.verdict(BRIEF_SECONDS)
        finally:
            os.kill(billing, signal.SIGCONT)
        assert any(line.startswith("billing: ") for line in frozen.stuck)
        assert any(line.endswith("no answer") for line in frozen.mistaken)
        assert any("kept by nobody" in line for line in frozen.mistaken)
        thawed = await push.verdict()
    assert thawed.stuck == []
    assert thawed.mistaken == []

"""`canbao demo`: a synthetic city applies, pays and is covered; what comes out is compared with the plan."""

import argparse
import asyncio
import signal
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cli.place import STACK_FOLDER, is_sandbox

if TYPE_CHECKING:
    from sandbox.performance import Ground
    from sandbox.show import Report, Screen
    from sandbox.supervisor import Sandbox

HELP = "start everything, live a synthetic city through it, compare the outcome with the plan"
MOST_CITIZENS = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("--citizens", type=int, default=10_000, metavar="N", help="how many apply (10000)")
    parser.add_argument("--seed", type=int, default=7, metavar="N", help="same seed, same city (7)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, nothing else")


def run(args: argparse.Namespace) -> int:
    """0: every outcome as planned and every invariant holds. 1: not so. 2: it could not start, or was told
    to end. 130: Ctrl-C before its end.
    """
    if not 1 <= args.citizens <= MOST_CITIZENS:
        return _say(f"--citizens {args.citizens}: expected 1 to {MOST_CITIZENS}")
    if not is_sandbox():
        return _say(f"{STACK_FOLDER} holds no sandbox: it is not emptied for one")
    import asyncpg  # noqa: PLC0415 - imported when needed: --help stays instant
    import uvloop  # noqa: PLC0415 - as above
    from confluent_kafka import KafkaException  # noqa: PLC0415 - as above

    from sandbox.kafka import KafkaTrouble  # noqa: PLC0415 - as above
    from sandbox.kafka_kit import KitTrouble  # noqa: PLC0415 - as above
    from sandbox.postgres import PostgresTrouble  # noqa: PLC0415 - as above
    from sandbox.state import AlreadyUp  # noqa: PLC0415 - as above

    try:
        return int(uvloop.run(_demo(args)))
    except (AlreadyUp, KafkaTrouble, KitTrouble, PostgresTrouble, NotReadyError, TimeoutError) as trouble:
        return _say(str(trouble) or "the machine is too slow or too busy: something timed out")
    except (asyncpg.InterfaceError, asyncpg.PostgresError, KafkaException) as trouble:
        return _say(f"a server refuses: {str(trouble).splitlines()[0]}")
    except KeyboardInterrupt:
        return _say("stopped", 130)
    except asyncio.CancelledError:
        return _say("told to end (SIGTERM; ./canbao down and reset do so)")


class NotReadyError(Exception):
    """A process does not answer; the text says which and where its log is."""


async def _demo(args: argparse.Namespace) -> int:
    from sandbox.city import plan  # noqa: PLC0415 - as above
    from sandbox.clock import BEGINS  # noqa: PLC0415 - as above
    from sandbox.performance import perform  # noqa: PLC0415 - as above
    from sandbox.show import Screen  # noqa: PLC0415 - as above
    from sandbox.supervisor import running  # noqa: PLC0415 - as above

    if this := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    city = plan(args.citizens, args.seed)
    with Screen(quiet=args.json) as screen:
        _make_empty(screen)
        async with running(STACK_FOLDER, say=screen.say) as sandbox:
            if missing := await sandbox.ready():
                raise NotReadyError(f"no answer from {', '.join(missing)}; see {STACK_FOLDER / 'logs'}")
            screen.say(f"every service answers; it is {BEGINS:%Y-%m-%d %H:%M} in the sandbox")
            patience = 25 + args.citizens / 50
            report, person_id = await perform(city, _ground(sandbox), screen, patience_seconds=patience)
            report.invariants = await _verify(sandbox)
            columns = screen.console.width
            timeline = [] if args.json else await _timeline(sandbox, person_id, columns)
            stays = screen.console.is_terminal and sys.stdin.isatty() and not args.json
            _present(report, person_id, timeline, sandbox, screen, stays=stays)
            if stays:
                await _until_told(screen)
    return 0 if report.expected_equal and all(report.invariants.values()) else 1


def _make_empty(screen: "Screen") -> None:
    """The demo's people can register once only, so it starts from nothing. AlreadyUp: somebody uses the
    sandbox.
    """
    from cli.reset import delete_all  # noqa: PLC0415 - as above
    from sandbox.state import is_up  # noqa: PLC0415 - as above

    if (STACK_FOLDER / "stack.toml").exists() and not is_up(STACK_FOLDER):
        screen.say(f"there is a sandbox in {STACK_FOLDER}: it is emptied first")
    delete_all()


def _ground(sandbox: "Sandbox") -> "Ground":
    from sandbox.drive import Outside  # noqa: PLC0415 - as above
    from sandbox.performance import Ground  # noqa: PLC0415 - as above

    return Ground(
        kafka=sandbox.stack.kafka,
        keys=sandbox.folder / "keys",
        outside=Outside(doors=sandbox.doors, provider=f"http://{sandbox.doors['wechat']}"),
        sms=f"http://{sandbox.doors['sms']}",
        mail=f"http://{sandbox.doors['mail']}",
        auditor=sandbox.stack.database_url("auditor"),
        now=lambda: datetime.now(UTC) + sandbox.skew,
    )


async def _verify(sandbox: "Sandbox") -> dict[str, bool]:
    from cli.verify import check  # noqa: PLC0415 - as above

    return {result.id: result.ok for result in await check(sandbox.stack)}


async def _timeline(sandbox: "Sandbox", person_id: str, columns: int) -> list[Any]:
    """One citizen's way through all services, as parts that rich prints."""
    from cli.timeline import find  # noqa: PLC0415 - as above
    from cli.trace import WIDE, tables  # noqa: PLC0415 - as above

    found = await find(sandbox.stack, person_id) if person_id else None
    return tables(found, wide=columns >= WIDE) if found else []


def _present(
    report: "Report",
    person_id: str,
    timeline: list[Any],
    sandbox: "Sandbox",
    screen: "Screen",
    *,
    stays: bool,
) -> None:
    """stays: the sandbox goes on running after this."""
    from sandbox.show import final, one_line, say_differences  # noqa: PLC0415 - as above

    if screen.quiet:
        say_differences(report, screen.console.print)
    else:
        screen.close()
        commands = [
            *(() if stays else (("./canbao up", "the same city again, in the background"),)),
            (f"./canbao trace {person_id}", "this citizen's way through all services"),
            ("./canbao tail billing.bills --from beginning --no-follow --count 3", "what billing said"),
            (
                "./canbao tail payment.payments --from beginning --no-follow --filter reason=PAID_TWICE",
                "what goes back",
            ),
            ("./canbao verify", "the invariants once more"),
            ("./canbao status", "what runs"),
        ]
        console = f"http://{sandbox.doors['console']}" if stays and "console" in sandbox.doors else ""
        final(report, timeline, console, commands, screen.console.print)
    if screen.quiet or not sys.stdout.isatty():
        sys.stdout.write(one_line(report) + "\n")
        sys.stdout.flush()


async def _until_told(screen: "Screen") -> None:
    """Somebody sits there: let him look around."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    screen.say("everything goes on running; Ctrl-C ends it")
    await stop.wait()


def _say(text: str, code: int = 2) -> int:
    sys.stderr.write(f"canbao demo: {text}\n")
    return code

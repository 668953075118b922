"""`canbao topics plan|apply`: do the broker's topics and rights agree with contracts/topics.py, and make
them."""

import argparse
import asyncio
import json
import os
import sys

from cli.place import NOTHING_RUNS, NothingRuns, running_stack

HELP = "compare topics, settings and ACLs with the broker, or make them agree"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "action", choices=("plan", "apply"), help="plan only looks (exit 1: it differs); apply makes it so"
    )
    parser.add_argument(
        "--kafka",
        default="",
        metavar="ADDRESS",
        help="the administrator's address, host:port or SASL_PLAINTEXT://user:password@host:port"
        " (default: CANBAO_KAFKA, else the running stack)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")


def run(args: argparse.Namespace) -> int:
    """0: they agree. 1: they differ, a difference is left that a person must decide, or nothing runs. 2: no
    broker where one was named.
    """
    from confluent_kafka import KafkaException  # noqa: PLC0415 - imported when needed: --help stays instant

    from services.chassis.topics import Broker  # noqa: PLC0415 - as above

    address = args.kafka or _address()
    if not address:
        return _say(f"{NOTHING_RUNS}; or name a broker with --kafka", 1)
    try:
        broker = Broker(address)
        plan = broker.plan()
        if args.action == "apply" and plan:
            broker.apply(plan)
            left = broker.plan()
        else:
            left = plan
    except (KafkaException, TimeoutError) as error:
        reason = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        return _say(f"the broker at {address.rpartition('@')[2]} refused or did not answer: {reason}")
    counts = {sign: sum(line.startswith(sign) for line in plan.lines()) for sign in "+-~!"}
    if args.json:
        text = {
            "equal": not left,
            "authorizer": plan.authorizer,
            "applied": args.action == "apply" and bool(plan),
            "differences": plan.lines(),
            "left": left.lines(),
        }
        sys.stdout.write(json.dumps(text, ensure_ascii=False) + "\n")
        return 1 if left else 0
    sys.stdout.writelines(line + "\n" for line in plan.lines())
    if not plan.authorizer:
        sys.stdout.write("this broker has no authorizer: ACLs are not compared, anybody may read and write\n")
    if not plan:
        sys.stdout.write(f"{len(broker.topics)} topics and their rights are as contracts ask\n")
    elif args.action == "plan":
        sys.stdout.write(
            f"{counts['+']} missing, {counts['-']} too much, {counts['~']} different,"
            f" {counts['!']} to decide by hand; make it so with: ./canbao topics apply\n"
        )
    else:
        sys.stdout.write(
            "applied\n" if not left else "applied, except what a person must decide (lines with !)\n"
        )
    return 1 if left else 0


def _address() -> str:
    """CANBAO_KAFKA, else the administrator's door of the stack that was started here; empty: there is
    none."""
    if named := os.environ.get("CANBAO_KAFKA"):
        return named
    try:
        return asyncio.run(running_stack()).kafka_admin
    except NothingRuns:
        return ""


def _say(text: str, code: int = 2) -> int:
    sys.stderr.write(f"canbao topics: {text}\n")
    return code

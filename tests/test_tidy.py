"""Does the source keep our own rules, those that no linter knows? Each message says what to do instead."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from contracts.message import CONTRACTS
from contracts.topics import SERVICES, TOPICS
from tests.source import ROOT, each, files, lines, nodes

MOST_LINES, MOST_FUNCTION_LINES, MOST_HANDLER_LINES, DEEPEST = 400, 60, 30, 3
DRAWERS = {
    "utils",
    "util",
    "common",
    "helpers",
    "helper",
    "core",
    "base",
    "manager",
    "managers",
    "misc",
    "lib",
    "shared",
}
PINYIN = {
    "jiaofei",
    "yibao",
    "shebao",
    "shenfen",
    "shenfenzheng",
    "shouji",
    "zhanghu",
    "daiyu",
    "dengji",
    "canbaoren",
    "juming",
    "jumin",
    "zhigong",
    "dingdan",
    "zhifu",
    "tuikuan",
    "duizhang",
    "tongchou",
    "nianxian",
    "dengdaiqi",
    "yonghu",
    "xingming",
    "hukou",
    "jingban",
    "shenhe",
    "tixing",
    "duanxin",
    "fapiao",
    "piaoju",
    "hege",
}
HOUSES = (*SERVICES, "console")
FACTS = {c.message.__name__: c for c in CONTRACTS.values() if c.kind == "fact"}
COMMANDS = {c.message.__name__: c for c in CONTRACTS.values() if c.kind == "command"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def told(wrong: Iterable[str], instead: str) -> None:
    """Fail with every place at once, and with what to do."""
    places = sorted(wrong)
    assert not places, "\n".join([instead, *(f"  {place}" for place in places)])


def functions(path: Path) -> list[Function]:
    return [*each(path, ast.FunctionDef), *each(path, ast.AsyncFunctionDef)]


def length(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def called(node: ast.Call) -> str:
    """The last name of what is called: commit for tx.commit()."""
    return (
        node.func.attr
        if isinstance(node.func, ast.Attribute)
        else node.func.id
        if isinstance(node.func, ast.Name)
        else ""
    )


def docstrings(path: Path) -> set[int]:
    """The line numbers on which docstrings begin."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.body[0].lineno for node in nodes(path)
            if isinstance(node, owners) and node.body and isinstance(node.body[0], ast.Expr)
            and isinstance(node.body[0].value, ast.Constant)}


# ---- Size and names


def test_no_file_is_longer_than_one_reads_at_a_sitting() -> None:
    told((f"{path}: {len(lines(path))} lines" for path in files() if len(lines(path)) > MOST_LINES),
         f"A file has at most {MOST_LINES} lines: split it by the question each half answers.")


def test_no_function_is_longer_than_a_screen() -> None:
    told((f"{path}:{f.lineno} {f.name}: {length(f)} lines" for path in files() for f in functions(path)
          if length(f) > MOST_FUNCTION_LINES),
         f"A function has at most {MOST_FUNCTION_LINES} lines: give its steps names.")


def test_no_folder_is_deeper_than_three() -> None:
    told(
        (
            str(path)
            for path in files()
            if len(path.parent.parts) > DEEPEST and "migrations" not in path.parts
        ),
        "Folders are at most three deep: move the file up.",
    )


def test_no_file_or_class_is_a_drawer() -> None:
    drawers = [str(path) for path in files() if DRAWERS & {*path.parent.parts, path.stem}]
    classes = [f"{path}:{c.lineno} {c.name}" for path in files() for c in each(path, ast.ClassDef)
               if re.search(r".(Manager|Helper|Util|Utils|Base|Mixin|Impl)$|^Abstract", c.name)]
    told(
        [*drawers, *classes],
        "Anything fits into a drawer, so nobody finds it again: name what it does or answers.",
    )


def test_every_module_says_what_it_answers() -> None:
    told((str(path) for path in files() if lines(path) and not docstrings(path) & set(range(1, 4))),
         "The first line of a module is a docstring: the question it answers.")


def test_identifiers_are_english_words() -> None:
    def words(name: str) -> set[str]:
        return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}

    named = ((path, node.lineno, node.id if isinstance(node, ast.Name) else node.name)
             for path in files() for node in nodes(path)
             if isinstance(node, ast.Name | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef))
    told(
        {f"{path}:{line} {name}" for path, line, name in named if not name.isascii() or words(name) & PINYIN},
        "Identifiers are English, one word per Chinese term: take it from the glossary in README.md.",
    )


def test_facts_are_past_and_never_called_events() -> None:
    told(
        (
            name
            for name in {*FACTS, *COMMANDS}
            if name.endswith(("Event", "Message", "Command", "Updated", "Changed"))
        ),
        "Say what happened (BillIssued) or what is wished (StartPayment), not that it is a message.",
    )


# ---- Who may do what


def test_topic_names_stand_in_contracts_only() -> None:
    topics = {name for name in TOPICS if "." in name}
    told(
        (
            f"{path}:{node.lineno} {node.value!r}"
            for path in files("services", "cli", "sandbox", "bench")
            for node in each(path, ast.Constant)
            if node.value in topics
        ),
        "A topic's name is declared once, in contracts/: import it, or take Partner.topic and .replies.",
    )


def test_only_the_chassis_begins_and_ends_transactions() -> None:
    ending = {"commit", "rollback", "transaction", "begin", "savepoint"}
    receivers = {
        "tx",
        "db",
        "connection",
        "conn",
        "session",
        "pool",
        "consumer",
        "cursor",
        "engine",
        "broker",
    }
    told((f"{path}:{call.lineno} .{called(call)}()" for path in files(*(f"services/{s}" for s in HOUSES))
          for call in each(path, ast.Call) if isinstance(call.func, ast.Attribute) and called(call) in ending
          and ast.unparse(call.func.value).split(".")[-1].lstrip("_") in receivers),
         "A handler is inside the engine's one transaction and never ends it: write through tx and return.")


@pytest.mark.parametrize("service", HOUSES)
def test_only_the_owner_says_a_fact(service: str) -> None:
    told(
        (
            f"{path}:{call.lineno} {called(call)}, owned by {FACTS[called(call)].owner}"
            for path in files(f"services/{service}")
            for call in each(path, ast.Call)
            if called(call) in FACTS and FACTS[called(call)].owner not in (service, "any")
        ),
        "A fact is said by its owner. Publish one of your own; the other service hears it.",
    )


@pytest.mark.parametrize("service", SERVICES)
def test_every_fact_and_command_of_a_service_is_said_or_handled_by_it(service: str) -> None:
    here = [path for path in files(f"services/{service}") if "migrations" not in path.parts]
    said = {called(call) for path in here for call in each(path, ast.Call)}
    heard = {arg.id for path in here for call in each(path, ast.Call) if called(call) == "on"
             for arg in call.args if isinstance(arg, ast.Name)}
    told(
        [
            *(f"fact {n}: never said" for n, c in FACTS.items() if c.owner == service and n not in said),
            *(
                f"command {n}: no handler"
                for n, c in COMMANDS.items()
                if c.owner == service and n not in heard
            ),
        ],
        "What contracts/ promises, the service does: write the handler, or take the promise out.",
    )


def test_handlers_are_short_and_leave_decisions_to_rules() -> None:
    wrong = []
    for path in files(*(f"services/{s}" for s in HOUSES)):
        if path.name == "handlers.py" or "handlers" in path.parent.parts:
            wrong += [
                f"{path}:{f.lineno} {f.name}: {length(f)} lines"
                for f in functions(path)
                if length(f) > MOST_HANDLER_LINES
            ]
            wrong += [f"{path}:{node.lineno} try" for node in each(path, ast.Try)]
    told(wrong, f"A handler loads, decides, saves, publishes in {MOST_HANDLER_LINES} lines without try:"
                " what decides is a rule, what can fail outside is the gateway's.")


def test_rules_and_contracts_compute_and_do_nothing_else() -> None:
    pure = {
        "msgspec",
        "contracts",
        "collections",
        "datetime",
        "decimal",
        "enum",
        "functools",
        "itertools",
        "math",
        "re",
        "typing",
        "zoneinfo",
        "dataclasses",
        "bisect",
        "calendar",
        "fractions",
        "hashlib",
        "uuid",
        "string",
        "unicodedata",
        "operator",
        "pathlib",
        "tomllib",
    }
    wrong = []
    for path in files("contracts", *(f"services/{s}" for s in HOUSES)):
        if path.parts[0] == "contracts" or path.name == "rules.py" or "rules" in path.parent.parts:
            own = f"services.{path.parts[1]}.rules"
            files_read = {"pathlib", "tomllib"} if path.parts[0] != "contracts" else set()
            wrong += [f"{path}: import {name}" for name in sorted(imports(path))
                      if name.split(".")[0] not in pure - files_read and not name.startswith(own)]
    told(wrong, "Contracts and rules are values and pure functions: hand in what they need as arguments.")


def imports(path: Path) -> set[str]:
    """The full names of what a file imports: modules, and the names taken from them."""
    return {alias.name for node in each(path, ast.Import) for alias in node.names} | {
        f"{node.module}.{alias.name}" for node in each(path, ast.ImportFrom) for alias in node.names}


# ---- Tests


def test_tests_wait_for_conditions_and_never_just_sleep() -> None:
    wrong = []
    for path in files("tests"):
        inside = {
            id(inner)
            for loop in nodes(path)
            if isinstance(loop, ast.While | ast.For | ast.AsyncFor)
            for inner in ast.walk(loop)
        }
        wrong += [
            f"{path}:{call.lineno}"
            for call in each(path, ast.Call)
            if called(call) == "sleep" and id(call) not in inside
        ]
    told(
        wrong,
        "A sleep is too short here and too long there: wait for a condition with a deadline.",
    )


def test_tests_use_the_real_thing() -> None:
    told(
        (f"{path}: {name}" for path in files("tests") for name in imports(path) if "mock" in name.split(".")),
        "No mocks: run the real code on real Postgres and Kafka; the outside has simulators in sandbox/.",
    )


def test_every_test_is_a_sentence() -> None:
    told((f"{path}:{f.lineno} {f.name}" for path in files("tests") for f in functions(path)
          if f.name.startswith("test_") and f.name.count("_") < 3),
         "A test's name says what holds, as a sentence: test_a_late_applicant_waits_before_cover_starts.")


# ---- The READMEs


@pytest.mark.parametrize("service", HOUSES)
def test_the_readmes_rule_index_matches_the_rules(service: str) -> None:
    folder = Path("services") / service
    rules = [path for path in files(str(folder)) if path.name == "rules.py" or path.parent.name == "rules"]
    there = {(str(path.relative_to(folder)), name) for path in rules for name in defined(path)}
    decides = {name for path in rules for name, node in defined(path).items()
               if isinstance(node, ast.FunctionDef) and not name.startswith("_")}
    handlers = [
        path for path in files(str(folder)) if path.name == "handlers.py" or path.parent.name == "handlers"
    ]
    used = {called(call) for path in handlers for call in each(path, ast.Call)} & decides
    readme = ROOT / folder / "README.md"
    assert readme.exists(), (
        f"{folder}/README.md is missing: owns, hears, states, the rule for …, what surprises people"
    )
    text = readme.read_text(encoding="utf-8")
    placed = set(re.findall(r"`(rules[\w/]*\.py): (\w+)", text))
    told(
        [
            *(f"the index has {path}: {name}, which is not there" for path, name in placed - there),
            *(
                f"{name} decides for a handler and is not in the index"
                for name in used - set(re.findall(r"\w+", text))
            ),
        ],
        f"{folder}/README.md, under 'The rule for …', names each rule a handler asks: `rules.py: name`.",
    )


def defined(path: Path) -> dict[str, ast.stmt]:
    """What a module defines at its top, by name."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse("\n".join(lines(path))).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


def test_every_statement_of_a_transaction_passes_one_of_its_three_methods() -> None:
    path = Path("services/chassis/transaction.py")
    choke = {"__init__", "fetch", "execute", "copy", "is_closed", "is_left_open"}
    told(
        (
            f"{path}:{f.lineno} {f.name}"
            for f in functions(path)
            if f.name not in choke
            and any(isinstance(n, ast.Attribute) and n.attr == "_connection" for n in ast.walk(f))
        ),
        "Statements go through Transaction.fetch, execute or copy: what watches or delays one watches all.",
    )


def test_nothing_waits_in_a_way_that_loses_an_order_to_end() -> None:
    told(
        (
            f"{path}:{call.lineno}"
            for path in files("services", "cli", "sandbox", "bench")
            for call in each(path, ast.Call)
            if called(call) == "wait_for"
        ),
        "asyncio.wait_for of Python 3.11 loses a cancellation that meets its result: take asyncio.timeout.",
    )

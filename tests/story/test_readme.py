"""Does the README say what is so? Commands are run or at least parse, and both languages have the same."""

import argparse
import importlib
import re
import shlex
import subprocess
import sys

import pytest

from cli.__main__ import VERBS, Parser
from cli.place import ROOT
from tests.story.conftest import CITIZENS, Lived

LANGUAGES = ("README.md", "README.zh-CN.md")
RUN = "<!-- run -->\n"  # stands above each block whose commands are run; the others only have to parse
_BLOCK = re.compile(rf"({RUN})?```(\w*)\n(.*?)```", re.DOTALL)
SEEN = (  # in the output of each block whose commands are run, in order
    ['"outcome": "ACCEPTED"', '"code": "ID_CHECKSUM"', '"todo_zh": "对照证件核对号码"', '"retryable": false'],
    ['"status": "APPROVED"', '"status": "SETTLED"'],
    ['"ce_type": "billing.bill_issued.v1"'],
    ["payment     running", "✓ I1 ", "缴费单 bill", "时间线 timeline", '"reason": "SIGNATURE_INVALID"'],
    ['"command": "any.redrive.v1"', '"was_halted": false'],
)
_INLINE = re.compile(r"`(\./canbao[^`]*)`")


def text_of(language: str) -> str:
    return (ROOT / language).read_text(encoding="utf-8")


def blocks(language: str, kind: str, *, run: bool) -> list[str]:
    """The code blocks of one kind, with or without the mark."""
    found = _BLOCK.findall(text_of(language))
    return [body for mark, this, body in found if this == kind and bool(mark) == run]


def commands(language: str) -> list[list[str]]:
    """The words of every `./canbao …` in code, up to whatever the shell does with it; each once."""
    text = text_of(language)
    code = "\n".join(body for _, _, body in _BLOCK.findall(text)) + "\n" + "\n".join(_INLINE.findall(text))
    found: dict[str, list[str]] = {}
    for said in re.findall(r"\./canbao([^\n|<>)#]*)", code):
        found.setdefault(said.strip(), shlex.split(said))
    return list(found.values())


def parse(words: list[str]) -> None:
    """As the verb itself would read them. SystemExit: it would not."""
    module = importlib.import_module(f"cli.{words[0]}")
    parser: argparse.ArgumentParser = Parser(prog=f"canbao {words[0]}")
    module.add_arguments(parser)
    if len(words) > 1 and not getattr(module, "TAKES_REST", False):
        parser.parse_args(words[1:])


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_verb_is_in_the_readme_and_its_arguments_are_understood(language: str) -> None:
    said = commands(language)

    assert {words[0] for words in said} == {verb for verb in VERBS if (ROOT / "cli" / f"{verb}.py").exists()}
    for words in said:
        parse(words)


def test_both_languages_have_the_same_code() -> None:
    english, chinese = LANGUAGES

    for kind, run in (("console", False), ("sh", True), ("python", False)):
        told = [[line.partition("  #")[0].rstrip() for line in body.splitlines()]
                for body in blocks(english, kind, run=run)]
        assert told == [[line.partition("  #")[0].rstrip() for line in body.splitlines()]
                        for body in blocks(chinese, kind, run=run)]
    assert commands(english) == commands(chinese)


@pytest.mark.timeout(240)
def test_the_demo_ends_as_planned(lived: Lived) -> None:
    assert lived.demo.returncode == 0, lived.demo.stdout + lived.demo.stderr
    assert lived.report["citizens"] == CITIZENS
    assert lived.report["expected_equal"] is True
    assert all(lived.report["invariants"].values())


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("script", "seen"),
    list(zip(blocks(LANGUAGES[0], "sh", run=True), SEEN, strict=True)),
    ids=["push", "way", "tail", "watch", "order"],
)
def test_what_the_readme_says_to_type_shows_what_it_says(lived: Lived, script: str, seen: list[str]) -> None:
    typed = script.replace("./canbao", f"{sys.executable} -m cli")

    done = run(lived, "bash", "-euo", "pipefail", "-c", typed)

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert [piece for piece in seen if piece not in done.stdout] == []


@pytest.mark.timeout(240)
def test_operators_can_type_what_the_chassis_tells_them(lived: Lived) -> None:
    (script,) = blocks("services/chassis/README.md", "sh", run=True)

    typed = script.replace("./canbao", f"{sys.executable} -m cli")

    done = run(lived, "bash", "-euo", "pipefail", "-c", typed)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"outcome": "ACCEPTED"') == 3, done.stdout
    assert '"why": {}' in done.stdout


@pytest.mark.timeout(240)
def test_the_readmes_consumer_reads_every_bill_once(lived: Lived) -> None:
    (program,) = blocks(LANGUAGES[0], "python", run=False)

    done, again = (run(lived, sys.executable, "-c", program) for _ in range(2))

    assert done.returncode == again.returncode == 0, done.stderr + again.stderr
    assert int(done.stdout.split()[0]) >= lived.report["billed"]
    assert again.stdout == done.stdout


def run(lived: Lived, *command: str) -> "subprocess.CompletedProcess[str]":
    """A program as somebody starts it who has just read the README."""
    return subprocess.run(
        command, cwd=ROOT, env=lived.ours, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False, timeout=120,
    )

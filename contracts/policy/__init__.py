"""What does a region's policy say for a year? Policy packs as frozen values, checked when they are loaded."""

import re
import tomllib
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from contracts.reasons import Reason

Sureness = Literal["HIGH", "MEDIUM", "LOW", "OURS"]
_SOURCED = {"value", "source", "sure"}
_COMPLAINT = re.compile(
    r"(?:Expected (?P<expected>.+?), got (?P<got>.+?)|(?P<rule>.+?))(?: - at `\$\.?(?P<key>.*)`)?$")


class PolicyError(ValueError):
    """A pack that must not be used: where, which rule, what was expected and what stands there."""

    def __init__(self, *, file: str, key: str, rule: str, expected: str, got: str) -> None:
        super().__init__(f"{file}: {key or '(whole file)'}: {rule}; expected {expected}, got {got}")
        self.file, self.key, self.rule, self.expected, self.got = file, key, rule, expected, got


class Source(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a value was found and how sure we are of it."""

    source: str
    sure: Sureness


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a pack; a key nobody reads is a mistake in the pack."""


class Enrollment(Section, frozen=True):
    """flow: whether the agency decides before anything is due. Only REVIEW_THEN_PAY is built."""

    flow: Literal["REVIEW_THEN_PAY"]


class Window(Section, frozen=True):
    """The collection window 集中征缴期, civil dates, both included."""

    opens: date
    closes: date

    def holds(self, day: date) -> bool:
        """Whether the civil day lies in the window."""
        return self.opens <= day <= self.closes


class Category(Section, frozen=True):
    """A category of person 人员类别 and what it pays for the year, in fen."""

    zh: str
    due_fen: int


class Resident(Section, frozen=True):
    """The resident scheme 城乡居民医保. personal_fen: the personal part in full. subsidy_fen: 财政补助.

    categories: by key; who is in none pays the personal part. precedence: which of several categories wins.
    """

    scheme_zh: str
    item: str
    personal_fen: int
    subsidy_fen: int
    precedence: Literal["LOWEST_DUE"]
    categories: dict[str, Category]


class LongTermCare(Section, frozen=True):
    """长期护理保险 of residents. included: it is part of the personal part, never on top of it."""

    fen: int
    included: Literal[True]


class Waiting(Section, frozen=True):
    """待遇等待期. Months, and the years after which more of them are counted."""

    fixed_months: int
    per_gap_year_months: int
    free_gap_years: int
    long_gap_years: int
    long_gap_floor_months: int


class Help(Section, frozen=True):
    """Whom a citizen calls. hotline_in_sources: what our sources print, beside the one in force."""

    hotline: str
    hotline_in_sources: str


class Policy(Section, frozen=True, eq=False):
    """One pack: region × insurance year × version. sources: key in the file → where its value comes from.

    Two packs are the same only if they are one object, so a pack can be the key of what is computed from it.
    """

    id: str
    version: int
    region_code: str
    region_zh: str
    insurance_year: int
    enrollment: Enrollment
    window: Window
    resident: Resident
    ltc: LongTermCare
    waiting: Waiting
    help: Help
    sources: dict[str, Source]

    @property
    def ref(self) -> str:
        """What bills say they were assessed by."""
        return f"{self.id}/{self.version}"

    @property
    def last_pay_day(self) -> date:
        """The last civil day on which money still buys cover inside the insurance year: who is late waits
        `waiting.fixed_months`. Source: 国办发〔2024〕38号.
        """
        year, month = divmod(12 * self.insurance_year + 12 - self.waiting.fixed_months, 12)
        return max(self.window.closes, date(year, month + 1, 1) - timedelta(days=1))


def policy_of(region_code: str, insurance_year: int) -> Policy | Reason:
    """The policy in force; REGION_UNKNOWN or YEAR_NOT_OPEN where there is none."""
    policy = _IN_FORCE.get((region_code, insurance_year))
    if policy is not None:
        return policy
    return Reason.YEAR_NOT_OPEN if region_code in _REGIONS else Reason.REGION_UNKNOWN


def in_force(region_code: str, insurance_year: int) -> Policy:
    """The policy under which something was taken in. LookupError: it was there then; a bug."""
    policy = policy_of(region_code, insurance_year)
    if isinstance(policy, Policy):
        return policy
    raise LookupError(f"no policy for {region_code} in {insurance_year}: {policy.name}")


def named(ref: str) -> Policy:
    """The policy that a bill says it was assessed by; it stays when a newer version is in force. LookupError:
    somebody has thrown it away; a bug.
    """
    return _PACKS[ref]


def is_region(region_code: str) -> bool:
    """Whether any pack speaks about the region, whatever the year."""
    return region_code in _REGIONS


def help_of(region_code: str) -> Help | Reason:
    """Whom the region's citizens call, by its newest pack; REGION_UNKNOWN where there is none."""
    years = [year for region, year in _IN_FORCE if region == region_code]
    return _IN_FORCE[region_code, max(years)].help if years else Reason.REGION_UNKNOWN


def load(file: str, text: str) -> Policy:
    """A pack from its text. PolicyError: it breaks a rule; file is only used in that message."""
    try:
        written = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(file=file, key="", rule="a pack is TOML", expected="TOML", got=str(error)) from None
    sources: dict[str, Source] = {}
    plain = {key: _plain(file, key, value, sources) for key, value in written.items()}
    try:
        policy = msgspec.convert(plain | {"sources": sources}, Policy)
    except msgspec.ValidationError as error:
        raise _explained(file, str(error)) from None
    for key, rule, expected, got in _broken(policy):
        raise PolicyError(file=file, key=key, rule=rule, expected=expected, got=got)
    return policy


def load_packs(folder: Path) -> dict[str, Policy]:
    """Every pack in a folder by its ref. PolicyError: one is wrong, or two say that they are one version."""
    packs: dict[str, Policy] = {}
    for path in sorted(folder.glob("*.toml")):
        policy = load(path.name, path.read_text(encoding="utf-8"))
        for other in packs.values():
            same = (other.region_code, other.insurance_year) == (policy.region_code, policy.insurance_year)
            if same and (other.id != policy.id or other.version == policy.version):
                rule = "one pack for a region and year, and each of its versions once"
                raise PolicyError(file=path.name, key="version", rule=rule,
                                  expected=f"another version of {other.id}", got=policy.ref)
        packs[policy.ref] = policy
    return packs


def newest(packs: Iterable[Policy]) -> dict[tuple[str, int], Policy]:
    """What is in force, by (region, insurance year): the highest version."""
    in_order = sorted(packs, key=lambda policy: policy.version)
    return {(policy.region_code, policy.insurance_year): policy for policy in in_order}


def _plain(file: str, key: str, value: Any, sources: dict[str, Source]) -> Any:
    """The value without its source, which goes into `sources`; every leaf inside a table must have one."""
    if not isinstance(value, dict):
        if "." in key:
            raise PolicyError(file=file, key=key, rule="every value says where it comes from",
                              expected="{ value, source, sure }", got=repr(value))
        return value                       # the pack's own name and place, at the top
    if "value" not in value:
        return {name: _plain(file, f"{key}.{name}", inner, sources) for name, inner in value.items()}
    if value.keys() != _SOURCED:
        raise PolicyError(file=file, key=key, rule="every value says where it comes from",
                          expected="{ value, source, sure }", got="{ " + ", ".join(value) + " }")
    try:
        sources[key] = msgspec.convert({"source": value["source"], "sure": value["sure"]}, Source)
    except msgspec.ValidationError as error:
        raise _explained(file, f"{error}", under=key) from None
    return value["value"]


def _explained(file: str, complaint: str, under: str = "") -> PolicyError:
    found = _COMPLAINT.match(complaint)
    if found is None:
        raise AssertionError(complaint)    # the pattern's second branch takes any text
    key = ".".join(part for part in (under, found["key"]) if part)
    return PolicyError(
        file=file, key=key, rule=found["rule"] or "a value has its declared type",
        expected=found["expected"] or "what contracts.policy declares", got=found["got"] or "this",
    )


def _broken(policy: Policy) -> Iterable[tuple[str, str, str, str]]:
    """(key, rule, expected, got) of each rule between values that the pack breaks."""
    resident, waiting, window = policy.resident, policy.waiting, policy.window
    if window.opens > window.closes:
        yield "window.closes", "a window opens before it closes", f">= {window.opens}", f"{window.closes}"
    for key, number in (
        ("resident.personal_fen", resident.personal_fen),
        ("resident.subsidy_fen", resident.subsidy_fen),
        *((f"waiting.{name}", getattr(waiting, name)) for name in waiting.__struct_fields__),
    ):
        if number < 0:
            yield key, "fen, months and years are not negative", "0 or more", f"{number}"
    for name, category in resident.categories.items():
        if not 0 <= category.due_fen <= resident.personal_fen:
            yield (f"resident.categories.{name}", "a category pays at most the personal part",
                   f"0 to {resident.personal_fen}", f"{category.due_fen}")
    if not 0 <= policy.ltc.fen <= resident.personal_fen:
        yield ("ltc.fen", "long-term care is inside the personal part",
               f"0 to {resident.personal_fen}", f"{policy.ltc.fen}")


_PACKS = load_packs(Path(__file__).parent)
_IN_FORCE = newest(_PACKS.values())
_REGIONS = frozenset(region for region, _ in _IN_FORCE)

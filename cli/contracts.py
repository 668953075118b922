"""`canbao contracts check|freeze`: did a message change so that somebody out there can no longer read it?

contracts/schemas/<type>.json and contracts/samples/<type>.json are committed: what partners built upon.
`freeze` adds what is new; it never overwrites a promise that is broken.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct, inspect

import contracts.topics  # noqa: F401 -- brings every module that declares a message
from contracts.answers import ANSWER_TYPES
from contracts.message import CONTRACTS, Sealed

FOLDER = Path(__file__).resolve().parent.parent / "contracts"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
ADVICE = (
    "A published type never changes: put the class back as it was, declare the new one with version=2"
    " (….v2), and publish both under one ce_id until the last listener has moved"
)

HELP = "compare message types with what partners were promised, or freeze what is new"
Kind = Literal["fact", "command", "answer", "inside"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "action",
        choices=("check", "freeze"),
        help="check: exit 1 when a promise is broken or not frozen; freeze: write what is new or compatible",
    )


def run(args: argparse.Namespace) -> int:
    """0: every type is as it was promised. 1: it is not, one line each."""
    if args.action == "freeze":
        sys.stdout.writelines(f"frozen {name}\n" for name in freeze())
    found = findings()
    sys.stdout.writelines(line + "\n" for line in found)
    if not found:
        sys.stdout.write(f"{len(message_types())} message types are as they were promised\n")
    return 1 if found else 0


class MessageType(Struct, frozen=True, kw_only=True):
    """One thing whose form is promised. kind inside: what a channel or service puts into a Sealed box."""

    name: str
    kind: Kind
    struct: type[Struct]


class Change(Struct, frozen=True, kw_only=True):
    """One difference between two schemas. widens: everything allowed before is still allowed."""

    path: str
    what: str
    widens: bool = False
    harmless: bool = False

    def breaks(self, kind: Kind) -> bool:
        """A command may be read more generously. A fact may not: it has readers of yesterday, and
        yesterday's facts are read again from the topics."""
        return not self.harmless and not (self.widens and kind == "command")


def message_types() -> dict[str, MessageType]:
    """Every promised form by its name on the wire; sealed contents are named sealed.<class>.v1."""
    found = [
        MessageType(name=c.type, kind="fact" if c.kind == "fact" else "command", struct=c.message)
        for c in CONTRACTS.values()
    ]
    found += [MessageType(name=name, kind="answer", struct=struct) for struct, name in ANSWER_TYPES.items()]
    inside: set[type[Struct]] = {struct for one in found for struct in _sealed_in(one.struct)}
    found += [MessageType(name=f"sealed.{s.__name__.lower()}.v1", kind="inside", struct=s) for s in inside]
    return {one.name: one for one in sorted(found, key=lambda one: one.name)}


def schema_of(message: MessageType) -> dict[str, Any]:
    """JSON Schema 2020-12 of a type, with its docstrings as descriptions."""
    schema = msgspec.json.schema(message.struct)
    for part in schema["$defs"].values():
        paragraphs = cleandoc(part.get("description", "")).split("\n\n")
        part["description"] = "\n\n".join(
            " ".join(one.split()) for one in paragraphs
        )  # however it was wrapped
    return {"$schema": DIALECT, "$id": f"{message.name}.json", "x-kind": message.kind, **schema}


def sample_of(message: MessageType) -> Any:
    """One message of the type, always the same, with plausible values in every field."""
    made: dict[str, Any] = _sample(inspect.type_info(message.struct), "")
    return made | _OF_TYPE.get(message.name, {})


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """What a schema says differently now, in the order of its fields."""
    kinds = old.get("x-kind"), new.get("x-kind")
    turned = [Change(path="$", what=f"was a {kinds[0]}, is a {kinds[1]}")] if kinds[0] != kinds[1] else []
    return turned + list(_node(old, new, old, new, "$"))


def findings(folder: Path = FOLDER) -> list[str]:
    """What is not as it was promised or not frozen yet, one line each; empty: all is well."""
    lines, types = [], message_types()
    for name, message in types.items():
        schema_file, sample_file = folder / "schemas" / f"{name}.json", folder / "samples" / f"{name}.json"
        if not schema_file.exists() or not sample_file.exists():
            lines.append(f"{name}: new and not frozen. Run: ./canbao contracts freeze")
            continue
        new, old = schema_of(message), json.loads(schema_file.read_text())
        changes = compare(old, new)
        broken = [change for change in changes if change.breaks(message.kind)]
        lines += [f"{name}: {change.path} {change.what}. {ADVICE}" for change in broken]
        if not broken and old != new:
            lines.append(f"{name}: compatible change, not frozen. Run: ./canbao contracts freeze")
        try:
            msgspec.json.decode(sample_file.read_bytes(), type=message.struct)
        except msgspec.ValidationError as error:
            lines.append(f"{name}: the frozen sample can't be read any more: {error}. {ADVICE}")
    frozen = {file.stem for part in ("schemas", "samples") for file in (folder / part).glob("*.json")}
    return lines + [
        f"{name}: is frozen but not declared any more. {ADVICE}" for name in sorted(frozen - types.keys())
    ]


def freeze(folder: Path = FOLDER) -> list[str]:
    """Write what is new or changed compatibly; returns the names written. A broken promise is left for
    `findings`."""
    written = []
    for name, message in message_types().items():
        schema_file, sample_file = folder / "schemas" / f"{name}.json", folder / "samples" / f"{name}.json"
        new = schema_of(message)
        if schema_file.exists():
            old = json.loads(schema_file.read_text())
            if old == new or any(change.breaks(message.kind) for change in compare(old, new)):
                continue
        written.append(name)
        _write(schema_file, new)
        if not sample_file.exists():
            _write(sample_file, sample_of(message))
    return written


def _write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _sealed_in(struct: type[Struct]) -> Iterator[type[Struct]]:
    for hint in get_type_hints(struct).values():
        if get_origin(hint) is Sealed:
            yield from get_args(hint)


# What differs

_BOUNDS = {
    "minimum": 1,
    "exclusiveMinimum": 1,
    "minLength": 1,
    "minItems": 1,
    "maximum": -1,
    "exclusiveMaximum": -1,
    "maxLength": -1,
    "maxItems": -1,
}
_ELEMENTS = ("items", "additionalProperties")
_HANDLED = {"description", "title", "$defs", "$schema", "$id", "properties", "required", "$ref", *_ELEMENTS}


def _node(old: Any, new: Any, old_root: Any, new_root: Any, path: str) -> Iterator[Change]:
    old, new = _resolve(old, old_root), _resolve(new, new_root)
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield Change(path=path, what=f"was {json.dumps(old)}, is {json.dumps(new)}")
        return
    if old.get("description") != new.get("description"):
        yield Change(path=path, what="is described differently", harmless=True)
    yield from _fields(old, new, old_root, new_root, path)
    yield from _elements(old, new, old_root, new_root, path)
    for word in sorted((old.keys() | new.keys()) - _HANDLED):
        yield from _keyword(word, old.get(word), new.get(word), path)


def _elements(old: Any, new: Any, old_root: Any, new_root: Any, path: str) -> Iterator[Change]:
    for word in _ELEMENTS:
        if word in old and word in new:
            yield from _node(old[word], new[word], old_root, new_root, f"{path}[]")
        elif word in old or word in new:
            how = "no longer limited" if word in old else "limited"
            yield Change(path=path, what=f"{word} are {how}", widens=word in old)


def _fields(
    old: dict[str, Any], new: dict[str, Any], old_root: Any, new_root: Any, path: str
) -> Iterator[Change]:
    before, after = old.get("properties", {}), new.get("properties", {})
    needed, needs = set(old.get("required", ())), set(new.get("required", ()))
    for name in [*before, *(name for name in after if name not in before)]:
        where = f"{path}.{name}"
        if name not in after:
            yield Change(path=where, what="was removed")
        elif name not in before:
            optional = name not in needs
            yield Change(
                path=where, what=f"was added as {'optional' if optional else 'required'}", harmless=optional
            )
        else:
            if (name in needed) != (name in needs):
                yield Change(
                    path=where,
                    what=f"became {'optional' if name in needed else 'required'}",
                    widens=name in needed,
                )
            yield from _node(before[name], after[name], old_root, new_root, where)


def _keyword(word: str, old: Any, new: Any, path: str) -> Iterator[Change]:
    if old == new:
        return
    if word in ("enum", "type", "anyOf", "oneOf"):
        before, after = _choices(old), _choices(new)
        free = word == "enum" and not after  # no enum at all any more: anything goes
        widens = bool(before) and (free or before < after)
        how = "widened" if widens else "narrowed" if after < before or not before else "changed"
    elif word in _BOUNDS:
        widens = new is None or (old is not None and (old - new) * _BOUNDS[word] > 0)
        how = "loosened" if widens else "tightened"
    else:
        widens = new is None and word in ("pattern", "format")
        how = "dropped" if widens else "changed"
    yield Change(path=path, what=f"{word} was {how}: {json.dumps(old)} -> {json.dumps(new)}", widens=widens)


def _choices(value: Any) -> set[str]:
    many = value if isinstance(value, list) else [] if value is None else [value]
    return {json.dumps(one, sort_keys=True) for one in many}


def _resolve(node: Any, root: Any) -> Any:
    while isinstance(node, dict) and "$ref" in node:
        node = root["$defs"][node["$ref"].removeprefix("#/$defs/")]
    return node


# What a message looks like

_IDS = {
    name: f"01930a5e-7c00-7000-8000-{number:012d}"
    for number, name in enumerate(
        ("person_id", "enrollment_id", "obligation_id", "order_id", "notification_id", "funds_id", "about"),
        start=1,
    )
}
_VALUES: dict[str, Any] = _IDS | {
    "request_id": "2024110500017",
    "journey": _IDS["enrollment_id"].replace("-", ""),
    "region_code": "990100",
    "insurance_year": 2025,
    "scheme": "RESIDENT",
    "category": "ordinary",
    "channel_code": "wechat",
    "channel_ref": "4200002024110501",
    "policy": "demo-2025/1",
    "item": "RESIDENT_MEDICAL_ANNUAL",
    "name_masked": "李*",
    "to_masked": "138****0001",
    "box": "AAECAwQFBgcICQoLDA0ODw==",
    "name": "李娜",
    "id_number": "990100199203152625",
    "phone": "13800000001",
    "email": "li.na@example.cn",
    "id_kind": "RESIDENT_ID",
    "service": "billing",
    "operator": "sre.wang",
    "command": "enrollment.submit_enrollment.v1",
    "source": "billing.bills/1/42",
    "road": "SMS",
    "provider": "wechat",
    "decision": "APPROVE",
    "officer": "officer.zhao",
    "submitted_by": "self",
    "level": "REAL_NAME",
    "method": "CASH",
    "because": "集中征缴期内参保，自年度首日起享受待遇",
    "code": "BILL_NOT_FOUND",
    "reason": "AMOUNT_MISMATCH",
    "status": "SETTLED",
    "type": "billing.bill_issued.v1",
    "parked_id": "7",
    "template": "bill_issued",
    "provider_ref": "sms-000001",
    "last_error": "ValueError",
    "kind": "STANDARD",
    "label_zh": "个人缴费标准",
    "result": {"status": "SUBMITTED"},
    "zh": "查无缴费单",
    "en": "no such bill",
    "todo_zh": "先查询缴费单；刚核定请稍后重试",
    "todo_en": "query the bill first; just approved: try again shortly",
    "field": "obligation_id",
    "rule": "bill.found",
    "expected": "a bill of this person",
    "got": "none",
    "seqs": 7,
}
_SEALS = {
    "registration": ("enrollment", "wechat"),
    "payer_saw": ("payment", "bank"),
    "for_payment": ("payment", "enrollment"),
    "for_notify": ("notify", "enrollment"),
}
_TEXTS = {
    "categories": "student",
    "reasons": "PHOTO_UNREADABLE",
    "explanation": "居民个人缴费标准 400.00 元",
}
# Where a field means something else, or nothing, in this type.
_OF_TYPE: dict[str, dict[str, Any]] = {
    "any.message_parked.v1": {"reason": "HANDLER_FAILED"},
    "any.redrive.v1": {"reason": "HANDLER_FAILED"},
    "enrollment.review_decision.v1": {"reasons": []},
}


def _sample(kind: inspect.Type, name: str) -> Any:
    match kind:
        case inspect.Metadata():
            return _sample(kind.type, name)
        case inspect.StructType() if name in _SEALS:
            reader, sealer = _SEALS[name]
            return {"reader": reader, "key_id": f"{sealer}>{reader}.1", "box": _VALUES["box"]}
        case inspect.StructType():
            tag = {kind.tag_field: kind.tag} if kind.tag_field else {}
            return tag | {field.encode_name: _sample(field.type, field.name) for field in kind.fields}
        case inspect.ListType():
            return [_sample(kind.item_type, name)]
        case _:
            return _scalar(kind, name)


def _scalar(kind: inspect.Type, name: str) -> Any:
    known = _VALUES.get(name)
    match kind:
        case inspect.DateTimeType():
            return "2024-11-05T09:30:00+08:00"
        case inspect.DateType():
            return {"starts_on": "2025-01-01", "ends_on": "2025-12-31"}.get(name, "2025-03-31")
        case inspect.BoolType():
            return name == "retryable"  # BILL_NOT_FOUND is
        case inspect.IntType():
            return known if isinstance(known, int) else 40000 if name == "fen" or name.endswith("_fen") else 1
        case inspect.StrType():
            return _TEXTS.get(name) or known or name
        case inspect.DictType():
            return known or {}
        case _:
            raise TypeError(f"no sample for {name}: {kind}; teach cli/contracts.py this type")

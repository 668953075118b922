"""In which ways can a body break its contract, and which field must be named then? Read from the types."""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, inspect
from msgspec.json import encode

from sandbox.fuzz.due import Due

SCHEMA, SECRET, BODY = "SCHEMA_INVALID", "SECRET_IN_MESSAGE", "BODY_INVALID"
_HANDLED = Due("handled")
_MARK = "@here@"
_WRONG = {  # of another JSON type than the one that is expected
    "int": ('"7"', "7.5", "400.0", "1e2", "true", "null", "[7]", "{}"),
    "str": ("7", "1.5", "true", "null", '["x"]', '{"x":1}'),
    "bool": ('"true"', "1", "null", "[]"),
    "datetime": (
        "7", "null", '"yesterday"', '"2024-12-20T09:00:00"', '"2024-02-30T00:00:00Z"', '"2024-12-20"', '""',
    ),
    "date": ("7", "null", '"2024-02-30"', '"2024-12-20T09:00:00Z"', '""'),
    "array": ("{}", '"x"', "7", "null"),
    "object": ("[]", '"x"', "7", "null"),
}
_KINDS: dict[type[inspect.Type], str] = {
    inspect.IntType: "int",
    inspect.StrType: "str",
    inspect.BoolType: "bool",
    inspect.DateTimeType: "datetime",
    inspect.DateType: "date",
    inspect.ListType: "array",
    inspect.StructType: "object",
}
_NOT_CODES = ('""', '"a b"', f'"{"x" * 400}"', '"参保"', '"a\\u0000b"', '"a\\nb"', '"\\t"', '"\'; drop --"')
_SECRETS = (
    ('"password": "hunter2"', "password"),
    ('"payPassword": "1"', "payPassword"),
    ('"note": {"card_no": "x"}', "note.card_no"),
    ('"list": [{"cvv2": 1}]', "list.0.cvv2"),
    ('"note": "990100198812120018"', "note"),
    ('"phone": "13912345678"', "phone"),
    ('"twice": "13912345678", "twice": 1', "twice"),
    ('"pay": {"card": "6222021234567890128"}', "pay.card"),
    ('"\\u0070assword": "x"', "password"),
)
_EXTRAS = (
    '"zz": 1', '"zz": null', '"": ""', '"参": "保"', '"zz": ' + "[" * 50 + "]" * 50, '"zz": 1e308',
    '"zz": 123456789012345678901234567890', '"zz": "\\ud83d\\ude00"', '"zz": {"zz": {"zz": []}}',
    '"z.z": -0', '"__proto__": {"x": 1}', '"$ref": "#"', '"zz": "' + "x" * 4000 + '"',
)
# What is no JSON at all, or no object. They may look as if they held a secret: then no byte of them is kept.
_NO_OBJECT = (
    b"", b"null", b"[]", b"7", b'"text"', b"true", b"{", b"}", b"{}x", b"\xff\xfe\x00garbage", b"\x00",
    b"<xml/>", b"'single'", b"[" * 20_000, b'{"a":' * 5_000, b"NaN", b"-", b'"\\ud800"', b"\xc3\x28", b"//c",
)


class Body(NamedTuple):
    """A changed body. what: how, for people. value: its bytes; None: none at all."""

    what: str
    value: bytes | None
    due: Due


class Field(NamedTuple):
    """One field of a message, wherever it stands. path: names and positions. shape: its type as msgspec sees
    it. may_be_missing: it has a default.
    """

    path: tuple[str | int, ...]
    shape: inspect.Type
    may_be_missing: bool


@cache
def fields(message: type[Struct]) -> tuple[Field, ...]:
    """Every field of a message, the nested ones too; of a list its first entry."""
    return tuple(_fields(inspect.type_info(message), ()))


def _fields(shape: inspect.Type, path: tuple[str | int, ...]) -> Iterator[Field]:
    shape = plain(shape)
    if isinstance(shape, inspect.StructType):
        for field in shape.fields:
            here = (*path, field.encode_name)
            yield Field(here, plain(field.type), not field.required)
            yield from _fields(field.type, here)
    elif isinstance(shape, inspect.ListType) and isinstance(plain(shape.item_type), inspect.StructType):
        yield from _fields(shape.item_type, (*path, 0))


def plain(shape: inspect.Type) -> inspect.Type:
    """Without what is only said about it."""
    while isinstance(shape, inspect.Metadata):
        shape = shape.type
    return shape


def named(path: tuple[str | int, ...]) -> str:
    """items[0].amount_fen, as a refusal names it."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def wrong_fields(message: type[Struct], valid: dict[str, Any], *, facts: bool = False) -> list[Body]:
    """Every way to break one field: another type, missing, out of its bounds. valid: a body that is right.

    facts: only what their contract itself refuses.
    """
    made = []
    for field in fields(message):
        if not _is_there(valid, field.path):
            continue
        where = named(field.path)
        due = Due("refused", (SCHEMA,), where)
        snippets = _snippets(field.shape)
        made += [Body(f"{where} = {s[:24]}", _with(valid, field.path, s), due) for s in snippets]
        if not field.may_be_missing:
            made.append(Body(f"no {where}", encode(_without(valid, field.path)), due))
        if isinstance(field.shape, inspect.IntType):
            made.append(
                Body(f"{where} = 1e400", _with(valid, field.path, "1e400"), due._replace(outcome="parked"))
            )
        if not facts:
            made += [Body(f"{where} = {s[:24]}", _with(valid, field.path, s), due) for s in _texts(field)]
            made += [
                Body(f"{where} = {s[:24]}", _with(valid, field.path, s), _HANDLED) for s in _large(field)
            ]
    return made


def _snippets(shape: inspect.Type) -> tuple[str, ...]:
    """JSON values that this type refuses."""
    kind = _KINDS.get(type(shape))
    if kind is None:
        return ()
    if isinstance(shape, inspect.IntType):
        return (*_WRONG[kind], *_out_of_bounds(shape))
    coded = isinstance(shape, inspect.StrType) and shape.pattern
    return (*_WRONG[kind], *_NOT_CODES) if coded else _WRONG[kind]


def _out_of_bounds(shape: inspect.IntType) -> Iterator[str]:
    low = shape.gt + 1 if shape.gt is not None else shape.ge
    if low is not None:
        yield from (str(low - 1), "-9999999999999999999999")
    if shape.le is not None:
        yield from (str(shape.le + 1), "9" * 400)


def _texts(field: Field) -> Iterator[str]:
    """What a command's reader refuses beyond the types: nothing that no row can hold gets to a handler."""
    if isinstance(field.shape, inspect.DateTimeType):
        yield from ('"0001-01-01T00:00:00+08:00"', '"9999-12-31T23:59:59Z"', '"1989-12-31T00:00:00Z"')
    if isinstance(field.shape, inspect.StrType):
        yield '"a\\u0000"'
        if field.shape.pattern and "{1,64}" in field.shape.pattern:
            yield '"a\\n"'


def wrong_seals(valid: dict[str, Any]) -> list[Body]:
    """Every way to break a seal that is right in its form."""
    made = []
    for name, seal in valid.items():
        if isinstance(seal, dict) and "box" in seal:
            others = {"key_id": "nobody>nobody.1", "reader": "notify", "box": seal["box"][::-1].strip("=")}
            for part, other in others.items():
                due = Due("refused", (SCHEMA,), f"{name}.{part}")
                made.append(Body(f"another {name}.{part}", encode(valid | {name: seal | {part: other}}), due))
    return made


def _large(field: Field) -> Iterator[str]:
    """Numbers that a contract allows and no row could hold: they are compared with what is known."""
    if isinstance(field.shape, inspect.IntType) and field.shape.le is None:
        yield from ("9" * 19, "9" * 20, "9" * 400, "-" + "9" * 20)


def whole_bodies(valid: dict[str, Any]) -> list[Body]:
    """Every way to change a body as a whole, an extra field among them."""
    right = encode(valid)
    text = right.decode()
    first = next(name for name in valid if name != "request_id")
    one = f'"{first}":{encode(valid[first]).decode()}'
    made = [Body(f"extra {extra[:24]}", _extended(right, extra), _HANDLED) for extra in _EXTRAS]
    made += [
        Body("blanks around", b" \r\n\t" + right + b"\n ", _HANDLED),
        Body("an escaped name", right.replace(b'"request_id"', b'"request\\u005fid"'), _HANDLED),
        Body("the other order", encode(dict(reversed(valid.items()))), _HANDLED),
        Body(f"{first} twice", _extended(right, one), _HANDLED),
    ]
    made += [
        Body(f"secret {extra[:24]}", _extended(right, extra), Due("parked", (SECRET,), path))
        for extra, path in _SECRETS
    ]
    made += [_parked(f"no object {value[:12]!r}", value) for value in _NO_OBJECT]
    made += [_parked(f"cut at {at}", right[:at]) for at in range(1, len(right), max(1, len(right) // 12))]
    made += [
        _parked("no value", None),
        _parked("a byte order mark", b"\xef\xbb\xbf" + right),
        _parked("UTF-16", text.encode("utf-16")),
        _parked("more behind", right + b"]"),
        _parked("two of them", right + right),
        _parked("a comma too many", right[:-1] + b",}"),
        _parked("single quotes", text.replace('"', "'").encode()),
        _parked("a comment", b"/* */" + right),
        _parked("NaN", _extended(right, '"zz": NaN')),
        _parked("Infinity", _extended(right, '"zz": -Infinity')),
        _parked("a control character", _extended(right, '"zz": "\x01"')),
        _parked("half a surrogate", _extended(right, '"zz": "\\ud800"')),
        _parked("a deep extra", _extended(right, '"zz": ' + "[" * 20_000 + "]" * 20_000)),
        _parked("as a text", encode(text)),
        _parked("in a list", b"[" + right + b"]"),
    ]
    return made


def too_large(valid: dict[str, Any], most_bytes: int) -> Body:
    """Longer than is taken."""
    return _parked("too large", _extended(encode(valid), f'"zz": "{"x" * most_bytes}"'))


def _parked(what: str, value: bytes | None) -> Body:
    return Body(what, value, Due("parked", (SCHEMA, BODY, SECRET)))


def _extended(right: bytes, extra: str) -> bytes:
    return right[:-1] + b"," + extra.encode() + b"}"


def _is_there(valid: Any, path: tuple[str | int, ...]) -> bool:
    try:
        for step in path:
            valid = valid[step]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _copied(valid: dict[str, Any], path: tuple[str | int, ...]) -> tuple[dict[str, Any], Any]:
    """A copy, and what in it holds the end of the path."""
    copy = msgspec.json.decode(encode(valid))
    holder = copy
    for step in path[:-1]:
        holder = holder[step]
    return copy, holder


def _with(valid: dict[str, Any], path: tuple[str | int, ...], snippet: str) -> bytes:
    copy, holder = _copied(valid, path)
    holder[path[-1]] = _MARK
    return bytes(encode(copy).replace(f'"{_MARK}"'.encode(), snippet.encode()))


def _without(valid: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    copy, holder = _copied(valid, path)
    del holder[path[-1]]
    return copy

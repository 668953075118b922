"""Does any message carry in clear what must be sealed, or what must not exist at all?"""

from collections.abc import Iterator

import pytest
from msgspec import Struct, inspect

from cli.contracts import message_types
from contracts.message import Sealed, Uuid
from services.chassis.forbidden import find

# C2: only inside Sealed. A masked value says so in its name and is C1.
PERSONAL = frozenset(
    {
        "name",
        "full_name",
        "person_name",
        "payer_name",
        "id_number",
        "id_no",
        "id_card",
        "identity",
        "phone",
        "mobile",
        "tel",
        "email",
        "mail",
        "address",
        "birth_date",
        "birthday",
        "born_on",
        "insurance_number",
        "bank_card",
        "bank_account",
        "account_no",
        "openid",
    }
)
MASK = "_masked"
REASON_CODE = "$.refusal.code"  # ours to say; a partner's `code` could be anything that came by SMS


def clear_fields(kind: inspect.Type, path: str = "$") -> Iterator[tuple[str, str]]:
    """(path, name) of every field that anybody can read who reads the topic."""
    if isinstance(kind, inspect.StructType):
        if kind.cls is Sealed or getattr(kind.cls, "__origin__", None) is Sealed:
            return
        for field in kind.fields:
            yield f"{path}.{field.encode_name}", field.encode_name
            yield from clear_fields(field.type, f"{path}.{field.encode_name}")
    for inner, mark in (("type", ""), ("item_type", "[]"), ("value_type", "{}")):
        if (held := getattr(kind, inner, None)) is not None:
            yield from clear_fields(held, path + mark)
    for one in getattr(kind, "types", ()):
        yield from clear_fields(one, path)


def offences(struct: type[Struct], *, sealed: bool = False) -> list[str]:
    """What this form must not say. sealed: it travels inside a box, where personal data is at home."""
    found = []
    for path, name in clear_fields(inspect.type_info(struct)):
        if find(b'{"%s": "x"}' % name.encode()) is not None and path != REASON_CODE:
            found.append(f"{path} is a secret: no message may carry it")
        elif name in PERSONAL and not sealed:
            found.append(f"{path} is personal: seal it (Sealed[…]) or mask it and call it {name}{MASK}")
    return found


def test_no_message_carries_personal_data_in_clear_or_a_secret_at_all() -> None:
    assert {
        name: found
        for name, message in message_types().items()
        if (found := offences(message.struct, sealed=message.kind == "inside"))
    } == {}


class Passport(Struct):
    name: str


class Careless(Struct):
    person_id: Uuid
    name_masked: str
    holder: Passport
    guests: list[Passport]
    boxed: Sealed[Passport]
    pin: str = ""


@pytest.mark.parametrize(
    ("sealed", "paths"),
    [(False, ["$.holder.name", "$.guests[].name", "$.pin"]), (True, ["$.pin"])],
)
def test_the_linter_looks_into_every_corner_but_not_into_the_box(sealed: bool, paths: list[str]) -> None:
    assert [line.partition(" ")[0] for line in offences(Careless, sealed=sealed)] == paths

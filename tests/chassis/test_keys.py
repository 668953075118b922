"""Is what is sealed readable by its reader alone, at its place alone, and are key files for their owner only?
"""

import os
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.enrollment import Contact, Identity
from contracts.message import Sealed
from contracts.topics import PRINCIPALS
from sandbox.keys import PAIRS, make_keys
from services.chassis.keys import KeyFile, Keyring, SealBroken, SealKey, SigningKey, load_keyring

LI_NA = Identity(name="李娜", id_number="990100199003078515")
TWO_KEYS = [SealKey(key_id=f"bank>payment.{n}", sealer="bank", reader="payment", secret=secret)
            for n, secret in ((1, "A" * 43 + "="), (2, "B" * 43 + "="))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sandbox") / "keys"
    make_keys(made)
    return made


def ring(folder: Path, principal: str) -> Keyring:
    return load_keyring(folder / f"{principal}.json")


def test_every_principal_has_a_key_file_that_only_its_owner_reads(folder: Path) -> None:
    for principal in PRINCIPALS:
        assert ring(folder, principal).principal == principal
    assert all(os.stat(file).st_mode & 0o077 == 0 for file in folder.iterdir())


def test_making_keys_again_changes_nothing_because_values_at_rest_need_them(folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    make_keys(folder)

    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "billing.json"
    file.write_bytes(b'{"principal": "billing"}')
    file.chmod(0o640)

    with pytest.raises(SystemExit, match="chmod 600"):
        load_keyring(file)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"principal": "x", "sael": []}', b'{"principal":"x","digest":"%"}']
)
def test_a_key_file_that_is_wrong_ends_the_process_with_its_name(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "billing.json"
    file.write_bytes(text)
    file.chmod(0o600)

    with pytest.raises(SystemExit, match=r"billing\.json: "):
        load_keyring(file)


@pytest.mark.parametrize(("sealer", "reader"), PAIRS)
def test_a_sealed_value_opens_for_its_reader(folder: Path, sealer: str, reader: str) -> None:
    sealed: Sealed[Identity] = ring(folder, sealer).seal(LI_NA, reader=reader, place="X1")

    assert "李娜" not in str(sealed)
    assert ring(folder, reader).open(sealed, Identity, place="X1") == LI_NA


def test_nobody_else_holds_the_key(folder: Path) -> None:
    sealed: Sealed[Identity] = ring(folder, "bank").seal(LI_NA, reader="payment", place="X1")

    for principal in set(PRINCIPALS) - {"bank", "payment"}:
        with pytest.raises(SealBroken, match="key_id"):
            ring(folder, principal).open(sealed, Identity, place="X1")


def test_a_seal_is_bound_to_its_place_its_class_and_its_reader(folder: Path) -> None:
    payment = ring(folder, "payment")
    sealed: Sealed[Identity] = ring(folder, "bank").seal(LI_NA, reader="payment", place="X1")

    with pytest.raises(SealBroken, match="box"):
        payment.open(sealed, Identity, place="X2")
    with pytest.raises(SealBroken, match="box"):
        payment.open(Sealed(reader="payment", key_id=sealed.key_id, box=sealed.box), Contact, place="X1")
    with pytest.raises(SealBroken, match="reader"):
        payment.open(Sealed(reader="notify", key_id=sealed.key_id, box=sealed.box), Identity, place="X1")


@given(box=st.one_of(st.text(max_size=80), st.binary(max_size=80).map(lambda raw: b64encode(raw).decode())))
def test_garbage_in_a_box_is_a_broken_seal_and_nothing_else(box: str) -> None:
    payment = Keyring(KeyFile(principal="payment", seals=TWO_KEYS))

    with pytest.raises(SealBroken, match="box"):
        payment.open(Sealed(reader="payment", key_id="bank>payment.1", box=box), Identity, place="X1")


def test_the_newest_key_seals_and_the_older_one_still_opens() -> None:
    old = Keyring(KeyFile(principal="bank", seals=TWO_KEYS[:1]))
    new = Keyring(KeyFile(principal="bank", seals=TWO_KEYS))
    payment = Keyring(KeyFile(principal="payment", seals=TWO_KEYS))

    newest: Sealed[Identity] = new.seal(LI_NA, reader="payment", place="p")
    assert newest.key_id == "bank>payment.2"
    assert payment.open(old.seal(LI_NA, reader="payment", place="p"), Identity, place="p") == LI_NA


def test_sealing_twice_gives_different_boxes(folder: Path) -> None:
    bank = ring(folder, "bank")
    first: Sealed[Identity] = bank.seal(LI_NA, reader="payment", place="p")

    assert bank.seal(LI_NA, reader="payment", place="p") != first


def test_a_blind_index_finds_equals_and_differs_by_purpose_and_service(folder: Path) -> None:
    enrollment = ring(folder, "enrollment")

    assert enrollment.blind("identity", "x") == enrollment.blind("identity", "x")
    assert len(enrollment.blind("identity", "x")) == 32
    assert enrollment.blind("identity", "x") != enrollment.blind("phone", "x")
    assert enrollment.blind("identity", "x") != ring(folder, "payment").blind("identity", "x")


@pytest.mark.parametrize(
    ("algorithm", "secret"), [("none", "A" * 43 + "="), ("HMAC-SHA256", ""), ("HMAC-SHA256", "AAAA")]
)
def test_a_weak_or_unknown_algorithm_never_becomes_a_key(algorithm: str, secret: str) -> None:
    key = SigningKey(key_id="k", partner="bank", algorithm=algorithm, secret=secret)

    with pytest.raises(ValueError, match=r"^k: .*expected"):
        Keyring(KeyFile(principal="bank", signing=[key]))


def test_who_takes_no_commands_digests_none(folder: Path) -> None:
    with pytest.raises(KeyError):
        ring(folder, "bank").request_digest(b"{}")

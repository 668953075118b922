"""Which keys does the synthetic city use? One file for each principal, made once, for the sandbox only."""

import os
import secrets
from base64 import b64encode
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from contracts.partners import CHANNELS, PARTNERS
from contracts.topics import OPERATED, PRINCIPALS, TOPICS
from sandbox.simulators.accounts import make_sms, make_wechat
from services.chassis.keys import HMAC, RSA, KeyFile, SealKey, SigningKey, VerifyingKey

# Who seals for whom. A service that seals for itself keeps C2 values at rest.
PAIRS = (
    *((channel, "enrollment") for channel in CHANNELS),
    ("bank", "payment"), ("counter", "payment"),
    ("enrollment", "payment"), ("enrollment", "notify"),
    ("enrollment", "enrollment"), ("payment", "payment"), ("notify", "notify"),
)
BLIND = {"enrollment": ("identity", "phone"), "payment": ("identity",), "notify": ("phone",)}


def make_keys(folder: Path) -> None:
    """Write all key files (mode 0600) into the folder, all or nothing. An existing folder is left as it is.

    <principal>.json for the keyrings; wechatpay.json (payment) and sms.json (notify) for the gateways, and
    the other side of each, *-platform.json, for the simulators. Values at rest are sealed with these keys,
    so they live as long as the sandbox's database.
    """
    if folder.exists():
        return
    new = folder.with_name(f"{folder.name}.{os.getpid()}")
    new.mkdir(parents=True, mode=0o700)
    for name, value in _principals().items():
        _write(new / f"{name}.json", value)
    make_wechat(new / "wechatpay.json", new / "wechatpay-platform.json")
    make_sms(new / "sms.json", new / "sms-platform.json")
    new.rename(folder)


def _principals() -> dict[str, KeyFile]:
    seals = [
        SealKey(key_id=f"{sealer}>{reader}.1", sealer=sealer, reader=reader, secret=_secret())
        for sealer, reader in PAIRS
    ]
    signing, verifying = {}, {}
    for code in PARTNERS:
        private, public = _rsa_pair()
        secret = _secret()
        signing[code] = [
            SigningKey(key_id=f"{code}.rsa.1", partner=code, algorithm=RSA, private_pem=private),
            SigningKey(key_id=f"{code}.hmac.1", partner=code, algorithm=HMAC, secret=secret),
        ]
        verifying[code] = [
            VerifyingKey(key_id=f"{code}.rsa.1", partner=code, algorithm=RSA, public_pem=public),
            VerifyingKey(key_id=f"{code}.hmac.1", partner=code, algorithm=HMAC, secret=secret),
        ]
    return {
        who: KeyFile(
            principal=who,
            seals=[key for key in seals if who in (key.sealer, key.reader)],
            blind={purpose: _secret() for purpose in BLIND.get(who, ())},
            digest=_secret() if who in OPERATED else "",
            signing=signing.get(who, []),
            verifying=[key for code, keys in verifying.items() if _listens(who, code) for key in keys],
        )
        for who in PRINCIPALS
    }


def _listens(who: str, partner: str) -> bool:
    """Only a service that reads a partner's topic needs to recognise that partner."""
    return who in OPERATED and who in TOPICS[PARTNERS[partner].topic].readers


def _rsa_pair() -> tuple[str, str]:
    """Private and public half as PEM."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    )


def _secret() -> str:
    return b64encode(secrets.token_bytes(32)).decode()


def _write(path: Path, value: msgspec.Struct) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(value), indent=2))

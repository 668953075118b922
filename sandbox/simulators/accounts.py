"""Who trusts whom?

Makes both sides' keys for the simulated providers: one file each, readable by its owner only.
"""

import json
import os
import secrets
import string
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

MCHID = "1900000001"
APPID = "wx0000000000000001"


def make_wechat(ours: Path, theirs: Path, *, mchid: str = MCHID, appid: str = APPID) -> None:
    """New keys of the merchant (ours: payment's gateway.Account) and the platform (theirs: the simulator)."""
    merchant, platform = generate_private_key(65537, 2048), generate_private_key(65537, 2048)
    merchant_serial, platform_serial = (
        secrets.token_hex(20).upper(),
        f"PUB_KEY_ID_{secrets.randbelow(10**22):022d}",
    )
    apiv3_key = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(32))
    _write(
        ours,
        {
            "mchid": mchid,
            "appid": appid,
            "serial": merchant_serial,
            "private_pem": _private_pem(merchant),
            "apiv3_key": apiv3_key,
            "platform": {platform_serial: _public_pem(platform)},
        },
    )
    _write(
        theirs,
        {
            "mchid": mchid,
            "appid": appid,
            "serial": platform_serial,
            "private_pem": _private_pem(platform),
            "apiv3_key": apiv3_key,
            "merchant_serial": merchant_serial,
            "merchant_public_pem": _public_pem(merchant),
        },
    )


def make_sms(ours: Path, theirs: Path) -> None:
    """New access key; both sides hold the same: services.notify.gateway.SmsAccount."""
    account = {
        "access_key": f"LTAI{secrets.token_hex(10)}",
        "secret": secrets.token_urlsafe(32),
        "sign_name": "示例市医保",
    }
    _write(ours, account)
    _write(theirs, account)


def _private_pem(key: RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _public_pem(key: RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _write(path: Path, value: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(value, file, indent=1)

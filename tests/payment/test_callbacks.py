"""Does payment believe the provider's callbacks, and nobody else's?"""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.datastructures import MutableHeaders

from contracts.reasons import Reason
from sandbox.simulators.accounts import make_wechat
from sandbox.simulators.wechat_signing import Keys, read_keys
from services.payment.gateway import Forged, NotAccepted, Stale, Unreadable, WeChat, read_account
from services.payment.rules import ProviderPaid, number_of

LI_NA = "01931a00-0000-7000-8000-000000000001"
HER_CHILD = "01931a00-0000-7000-8000-0000000000a1"
HER_OWN = "01931a00-0000-7000-8000-0000000000a2"
PAID_AT = datetime(2024, 11, 5, 1, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sides' accounts: ours.json, theirs.json; and another merchant's: stranger.json, strange.json."""
    directory = tmp_path_factory.mktemp("wechat")
    make_wechat(directory / "ours.json", directory / "theirs.json")
    make_wechat(directory / "stranger.json", directory / "strange.json")
    return directory


@pytest.fixture
def gateway(files: Path) -> WeChat:
    return WeChat(read_account(files / "ours.json"), url="", callback_url="")


Headers = MutableHeaders
ORDER_ID = "01931a00-0000-7000-8000-00000000000f"
CLEAR = {
    "appid": "wx0000000000000001",
    "mchid": "1900000001",
    "out_trade_no": number_of(ORDER_ID),
    "trade_state": "SUCCESS",
    "trade_type": "NATIVE",
    "transaction_id": "4200202411050000000000000001",
    "success_time": "2024-11-05T09:30:00+08:00",
    "payer": {"openid": "oUpF8uMuAJO"},
    "attach": "",
    "amount": {"total": 80_000, "payer_total": 80_000, "currency": "CNY", "payer_currency": "CNY"},
}


def a_callback(keys: Keys, *, clear: dict[str, Any] | None = None, **fields: Any) -> tuple[Headers, bytes]:
    """What the provider sends: its headers and its body."""
    resource = keys.seal(json.dumps(clear or CLEAR).encode()) | fields.pop("resource", {})
    body = json.dumps(
        {
            "id": "EV-1",
            "create_time": "2024-11-05T09:30:00+08:00",
            "resource_type": "encrypt-resource",
            "event_type": "TRANSACTION.SUCCESS",
            "summary": "支付成功",
            "resource": resource,
        }
        | fields,
        ensure_ascii=False,
    ).encode()
    return MutableHeaders(keys.sign_headers(body)), body


def test_a_callback_tells_who_paid_what_and_when(files: Path, gateway: WeChat) -> None:
    attach = base64.urlsafe_b64encode(bytes.fromhex((LI_NA + HER_CHILD + HER_OWN).replace("-", ""))).decode()

    paid = gateway.read_callback(
        *a_callback(read_keys(files / "theirs.json"), clear=CLEAR | {"attach": attach})
    )

    assert paid == ProviderPaid(
        order_id=ORDER_ID, order_no=number_of(ORDER_ID), person_id=LI_NA, obligation_ids=[HER_CHILD, HER_OWN],
        notice_id="EV-1", state="SUCCESS", amount_fen=80_000, payer_fen=80_000, currency="CNY",
        transaction_id="4200202411050000000000000001", paid_at=PAID_AT,
    )


def test_money_for_a_strange_order_is_heard_too(files: Path, gateway: WeChat) -> None:
    clear = CLEAR | {"out_trade_no": "from-another-shop", "attach": "voucher 7"}

    first = gateway.read_callback(*a_callback(read_keys(files / "theirs.json"), clear=clear))
    again = gateway.read_callback(*a_callback(read_keys(files / "theirs.json"), clear=clear))

    assert first == again
    assert (first.order_no, first.person_id, first.obligation_ids) == ("from-another-shop", "", [])


def test_a_replay_reads_the_same(files: Path, gateway: WeChat) -> None:
    """Whoever handles it knows the order: the provider's own repeats look no different."""
    headers, body = a_callback(read_keys(files / "theirs.json"))

    assert gateway.read_callback(headers, body) == gateway.read_callback(headers, body)


def replaced(
    name: str, value: Callable[[str], str] | str
) -> Callable[[Headers, bytes], tuple[Headers, bytes]]:
    def tamper(headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        headers[name] = value if isinstance(value, str) else value(headers[name])
        return headers, body

    return tamper


def removed(name: str) -> Callable[[Headers, bytes], tuple[Headers, bytes]]:
    def tamper(headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        del headers[name]
        return headers, body

    return tamper


def swapped(headers: Headers, body: bytes) -> tuple[Headers, bytes]:
    headers["Wechatpay-Timestamp"], headers["Wechatpay-Nonce"] = (
        headers["Wechatpay-Nonce"],
        headers["Wechatpay-Timestamp"],
    )
    return headers, body


def twice(headers: Headers, body: bytes) -> tuple[Headers, bytes]:
    headers.append("Wechatpay-Signature", headers["Wechatpay-Signature"])
    return headers, body


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(lambda headers, body: (MutableHeaders(), body), id="no signature at all"),
        pytest.param(removed("Wechatpay-Signature"), id="no signature header"),
        pytest.param(removed("Wechatpay-Timestamp"), id="no timestamp header"),
        pytest.param(removed("Wechatpay-Nonce"), id="no nonce header"),
        pytest.param(removed("Wechatpay-Serial"), id="no key named"),
        pytest.param(replaced("Wechatpay-Signature", ""), id="empty signature"),
        pytest.param(replaced("Wechatpay-Signature", lambda old: old[:-8]), id="truncated signature"),
        pytest.param(
            replaced("Wechatpay-Signature", lambda old: old.replace("=", "") + "!!=="),
            id="signature no base64",
        ),
        pytest.param(
            replaced("Wechatpay-Signature", lambda old: "WECHATPAY/SIGNTEST/" + old[19:]),
            id="the provider's probe",
        ),
        pytest.param(twice, id="signature header twice"),
        pytest.param(swapped, id="headers swapped"),
        pytest.param(
            replaced("Wechatpay-Timestamp", lambda old: str(int(old) + 1)), id="timestamp one second on"
        ),
        pytest.param(
            replaced("Wechatpay-Timestamp", lambda old: "+" + old), id="timestamp written otherwise"
        ),
        pytest.param(replaced("Wechatpay-Nonce", lambda old: old[1:] + old[:1]), id="another nonce"),
        pytest.param(replaced("Wechatpay-Serial", "PUB_KEY_ID_0000000000000000000000"), id="unknown key"),
        pytest.param(replaced("Wechatpay-Serial", lambda old: f"../{old}"), id="key as a path"),
        pytest.param(replaced("Wechatpay-Signature-Type", "WECHATPAY2-SHA1-RSA1024"), id="weaker algorithm"),
        pytest.param(replaced("Wechatpay-Signature-Type", "none"), id="algorithm none"),
        pytest.param(lambda headers, body: (headers, body + b" "), id="body one byte longer"),
        pytest.param(lambda headers, body: (headers, body[:-1]), id="body one byte shorter"),
        pytest.param(lambda headers, body: (headers, body.replace(b"EV-1", b"EV-2")), id="another notice id"),
        pytest.param(
            lambda headers, body: (headers, json.dumps(json.loads(body)).encode()), id="re-encoded JSON"
        ),
        pytest.param(lambda headers, body: (headers, b""), id="no body"),
    ],
)
def test_a_forgery_is_refused(
    files: Path, gateway: WeChat, tamper: Callable[[Headers, bytes], tuple[Headers, bytes]]
) -> None:
    headers, body = tamper(*a_callback(read_keys(files / "theirs.json")))

    with pytest.raises(Forged) as caught:
        gateway.read_callback(headers, body)

    assert caught.value.reason is Reason.SIGNATURE_INVALID


def test_a_body_far_too_long_is_not_even_read(files: Path, gateway: WeChat) -> None:
    headers, body = a_callback(read_keys(files / "theirs.json"), summary="x" * 70_000)

    with pytest.raises(Forged) as caught:
        gateway.read_callback(headers, body)

    assert caught.value.reason is Reason.BODY_INVALID


@pytest.mark.parametrize("stamp", ["1e9", "-1", "soon", "1730770200.5", "9" * 13])
def test_a_timestamp_that_is_none_is_refused_though_signed(files: Path, gateway: WeChat, stamp: str) -> None:
    keys = read_keys(files / "theirs.json")
    _, body = a_callback(keys)

    with pytest.raises(Forged):
        gateway.read_callback(keys.sign_headers(body, stamp=stamp), body)


def test_another_key_under_the_known_serial_is_forged(files: Path, gateway: WeChat) -> None:
    headers, body = a_callback(read_keys(files / "strange.json"))
    headers["Wechatpay-Serial"] = read_keys(files / "theirs.json").serial

    with pytest.raises(Forged):
        gateway.read_callback(headers, body)


@pytest.mark.parametrize(("seconds", "passes"), [(-301, False), (-299, True), (299, True), (301, False)])
def test_five_minutes_old_is_stale(files: Path, seconds: int, passes: bool) -> None:
    headers, body = a_callback(read_keys(files / "theirs.json"))
    signed_at = int(headers["Wechatpay-Timestamp"])
    gateway = WeChat(
        read_account(files / "ours.json"), url="", callback_url="", clock=lambda: signed_at + seconds
    )

    if passes:
        assert gateway.read_callback(headers, body).amount_fen == 80_000
        return
    with pytest.raises(Stale) as caught:
        gateway.read_callback(headers, body)
    assert caught.value.reason is Reason.CLOCK_SKEW


@pytest.mark.parametrize(
    ("fields", "clear", "reason"),
    [
        ({"resource": {"algorithm": "AEAD_AES_128_ECB"}}, {}, Reason.BODY_INVALID),
        ({"resource": {"nonce": "000000000000"}}, {}, Reason.BODY_INVALID),
        ({"resource": {"nonce": ""}}, {}, Reason.BODY_INVALID),
        ({"resource": {"associated_data": "refund"}}, {}, Reason.BODY_INVALID),
        ({"resource": {"ciphertext": "AAAA"}}, {}, Reason.BODY_INVALID),
        ({"resource": {"ciphertext": "支付"}}, {}, Reason.BODY_INVALID),
        ({"event_type": "REFUND.SUCCESS"}, {}, Reason.TYPE_UNKNOWN),
        ({"resource": 7}, {}, Reason.BODY_INVALID),
        ({}, {"mchid": "1900000002"}, Reason.NOT_PERMITTED),
        ({}, {"appid": "wx0000000000000002"}, Reason.NOT_PERMITTED),
        ({}, {"success_time": "2024-11-05T09:30:00"}, Reason.BODY_INVALID),
        ({}, {"amount": {"total": 800.0, "payer_total": 80_000}}, Reason.BODY_INVALID),
    ],
)
def test_what_the_provider_says_to_others_or_of_other_things_is_unreadable(
    files: Path, gateway: WeChat, fields: dict[str, Any], clear: dict[str, Any], reason: Reason
) -> None:
    keys = read_keys(files / "theirs.json")
    if fields.get("resource") == 7:
        body = b'{"id":"EV-1","event_type":"TRANSACTION.SUCCESS","resource":7}'
        callback: tuple[Headers, bytes] = (MutableHeaders(keys.sign_headers(body)), body)
    else:
        callback = a_callback(keys, clear=CLEAR | clear, **fields)

    with pytest.raises(Unreadable) as caught:
        gateway.read_callback(*callback)

    assert caught.value.reason is reason


def test_another_apiv3_key_opens_nothing(files: Path) -> None:
    ours = read_account(files / "ours.json")
    gateway = WeChat(msgspec.structs.replace(ours, apiv3_key="0" * 32), url="", callback_url="")

    with pytest.raises(Unreadable):
        gateway.read_callback(*a_callback(read_keys(files / "theirs.json")))


def test_an_old_platform_key_is_good_until_it_is_taken_out(files: Path) -> None:
    """While the provider changes its key, both are known; afterwards only the new one."""
    ours, new = read_account(files / "ours.json"), read_account(files / "stranger.json")
    callback = a_callback(read_keys(files / "theirs.json"))

    def knowing(platform: dict[str, str]) -> WeChat:
        return WeChat(msgspec.structs.replace(ours, platform=platform), url="", callback_url="")

    assert knowing(ours.platform | new.platform).read_callback(*callback).state == "SUCCESS"
    with pytest.raises(Forged):
        knowing(new.platform).read_callback(*callback)


def test_the_refusal_tells_nothing_personal(files: Path, gateway: WeChat) -> None:
    headers, body = a_callback(read_keys(files / "theirs.json"), clear=CLEAR | {"mchid": "1900000002"})

    with pytest.raises(NotAccepted) as caught:
        gateway.read_callback(headers, body)

    assert "oUpF8" not in str(caught.value)


@pytest.mark.parametrize(
    "weak", [rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP256R1())]
)
def test_a_platform_key_that_is_not_rsa_2048_is_not_taken(
    files: Path, weak: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
) -> None:
    pem = weak.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    with pytest.raises(ValueError, match="RSA-2048"):
        WeChat(
            msgspec.structs.replace(read_account(files / "ours.json"), platform={"WEAK": pem}),
            url="",
            callback_url="",
        )

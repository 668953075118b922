"""What if a partner's whole CloudEvent stands in the body? It is turned into the form of all others."""

from typing import Any

from msgspec.json import Decoder, encode

from services.chassis.arrival import Raw

_CONTENT_TYPE = b"application/cloudevents+json"
_untyped = Decoder().decode


def unpacked(raw: Raw) -> Raw | None:
    """A CloudEvent in structured mode, turned into binary mode. None: it is not one."""
    head = dict(raw.headers)
    if not (head.get("content-type") or b"").startswith(_CONTENT_TYPE) or raw.value is None:
        return None
    event: dict[str, Any] = _untyped(raw.value)
    attributes = tuple(
        (f"ce_{k}", str(v).encode()) for k, v in event.items() if k not in ("data", "data_base64")
    )
    rest = tuple((k, v) for k, v in raw.headers if k != "content-type")
    if not any(name == "ce_type" for name, _ in attributes):
        return None
    return raw._replace(headers=(*attributes, *rest), value=encode(event.get("data")))

"""Which of the provider's bad days does this request meet? The same seed and key always meet the same one."""

from hashlib import blake2b

import msgspec
from msgspec import Struct

NONE = "ok"


class Faults(Struct, frozen=True, forbid_unknown_fields=True):
    """rates: share of requests (0..1) that meet each fault. named: keys (a phone, an order) that always meet
    theirs.

    times: how many of a key's first tries may meet a fault by rate, so that whoever tries again gets through.
    """

    seed: int = 7
    rates: dict[str, float] = {}
    named: dict[str, str] = {}
    times: int = 1

    def __post_init__(self) -> None:
        if any(rate < 0 for rate in self.rates.values()) or sum(self.rates.values()) > 1:
            raise ValueError("rates are shares that sum to at most 1")

    def of(self, key: str, *, tried: int = 0, names: tuple[str, ...] = ()) -> str:
        """The fault of a key's try number `tried` (from 0), NONE for most.

        names: other texts that may stand in named.
        """
        for name in (key, *names):
            if name in self.named:
                return self.named[name]
        if tried >= self.times:
            return NONE
        left = int.from_bytes(blake2b(f"{self.seed}/{key}/{tried}".encode(), digest_size=8).digest()) / 2**64
        for fault, rate in self.rates.items():
            left -= rate
            if left < 0:
                return fault
        return NONE


def read_faults(text: bytes, known: frozenset[str]) -> Faults:
    """A menu from JSON. ValueError: not a menu, or a fault that this provider does not know."""
    menu = msgspec.json.decode(text, type=Faults)
    check_faults(menu, known)
    return menu


def check_faults(menu: Faults, known: frozenset[str]) -> None:
    """ValueError: the menu names a fault that the provider does not know."""
    if strange := ({*menu.rates, *menu.named.values()} - known - {NONE}):
        raise ValueError(f"unknown fault {', '.join(sorted(strange))}; known: {', '.join(sorted(known))}")

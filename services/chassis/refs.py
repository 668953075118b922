"""What may a message change? Refs: 64-bit numbers that cut a batch into waves, are locked, and are parked."""

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Protocol, TypeVar

Ref = int


class HasRefs(Protocol):
    """Anything that names its refs."""

    @property
    def refs(self) -> tuple[Ref, ...]:
        """What it may change."""
        ...


Item = TypeVar("Item", bound=HasRefs)


class Refs:
    """The refs of one service. Lock keys are one space in a database, so every number is salted with service
    and kind.
    """

    def __init__(self, service: str) -> None:
        self._service = service

    def by_uuid(self, kind: str) -> Callable[[str], Ref]:
        """Refs of things that have a uuid: its 60 random bits, salted."""
        salt = number_of(f"{self._service}|{kind}")

        def ref(uuid: str) -> Ref:
            return int(uuid[24:] + uuid[20:23], 16) ^ salt

        return ref

    def by_text(self, kind: str) -> Callable[..., Ref]:
        """Refs of what is not born yet, by its business key: two births meet at one lock."""
        prefix = f"{self._service}|{kind}"

        def ref(*key: object) -> Ref:
            return number_of("|".join((prefix, *map(str, key))))

        return ref


def number_of(text: str) -> Ref:
    """The ref of a text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1


def waves(items: Iterable[Item]) -> list[list[Item]]:
    """Cut a batch so that no wave holds two items that share a ref, and items that share one keep their
    order.
    """
    items = list(items)
    named = [ref for item in items for ref in item.refs]
    if len(set(named)) == len(named):
        return [items] if items else []      # nearly always: nobody meets anybody
    cut: list[list[Item]] = []
    last: dict[Ref, int] = {}
    for item in items:
        at = 0
        for ref in item.refs:
            after = last.get(ref, -1) + 1
            if after > at:
                at = after
        for ref in item.refs:
            last[ref] = at
        if at == len(cut):
            cut.append([])
        cut[at].append(item)
    return cut

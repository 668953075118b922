"""How much may those write down here who cannot prove who they are? The first ones, then one a minute."""

from typing import NamedTuple

# A failed proof is kept as evidence, body and all (256 KB at most): enough for an operator to see what a
# partner has mistaken, too little to fill a disk. At the very worst 1,440 rows a day, 0.4 GB, for a partner.
AT_ONCE_ADDRESS, AT_ONCE_PARTNER = 20, 60
REFILL_SECONDS = 60.0
REMEMBERED = 4096               # addresses; one that is forgotten begins anew, within the partner's bucket


class Bucket(NamedTuple):
    """Tokens at an instant; time brings new ones up to the limit."""

    tokens: float
    at: float


class Forgers:
    """Token buckets of one process, for each claimed partner and each remote address. Only what failed its
    proof takes a token, so that no forger can throttle the partner whose name he uses.
    """

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def wait_seconds(self, partner: str, address: str, now: float) -> float:
        """0: this failed proof may be kept, and both buckets hold one less. Else how long until one may.

        now: seconds of a clock that only goes forward.
        """
        limits = {f"partner {partner}": AT_ONCE_PARTNER, f"address {address}": AT_ONCE_ADDRESS}
        found = {name: self._tokens(name, limit, now) for name, limit in limits.items()}
        least = min(found.values())
        if least < 1.0:
            return (1.0 - least) * REFILL_SECONDS
        for name, tokens in found.items():
            self._buckets.pop(name, None)  # the one used last stands last
            self._buckets[name] = Bucket(tokens - 1.0, now)
        if len(self._buckets) > REMEMBERED:
            del self._buckets[next(iter(self._buckets))]
        return 0.0

    def _tokens(self, name: str, limit: int, now: float) -> float:
        bucket = self._buckets.get(name, Bucket(limit, now))
        return min(float(limit), bucket.tokens + (now - bucket.at) / REFILL_SECONDS)

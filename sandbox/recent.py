"""Was this heard a moment ago? A relay that was killed says its last words again, under the same ids."""

MOST = 20_000


class Recent:
    """The newest ids that were asked about."""

    def __init__(self) -> None:
        self._ids: dict[object, None] = {}

    def is_new(self, id: object) -> bool:
        """Whether it is asked about for the first time in a while; None is nobody's id."""
        if id is None:
            return True
        if id in self._ids:
            return False
        self._ids[id] = None
        if len(self._ids) > MOST:
            del self._ids[next(iter(self._ids))]
        return True

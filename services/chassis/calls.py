"""What may a call to the outside come to, beside an answer?"""


class Unknown(Exception):
    """The request may have reached the provider and we can't tell what it did: ask before sending again."""


class NotSent(Exception):
    """The provider surely did nothing, so the same request may be sent again. after_seconds: not before, 0 = at once."""

    def __init__(self, why: str, *, after_seconds: float = 0.0) -> None:
        super().__init__(why)
        self.after_seconds = after_seconds

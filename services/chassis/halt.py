"""When is the code wrong, not the data? Too many failures stop the service until an operator resumes it."""

from collections import deque
from itertools import islice, repeat

import asyncpg
from typing_extensions import override

IN_A_ROW = 20
SHARE, OF_LAST = 0.05, 1000


class Halted(Exception):
    """The service has stopped consuming; its messages stay where they are."""


class Halt:
    """Counts handler failures of this process; the row that stops every member outlives restarts."""

    def __init__(self) -> None:
        self.declared = False
        self.unwritten = False      # declared here, and its row not committed yet
        self.last_error = ""
        self._in_a_row = 0
        # 1: failed
        self._recent: deque[int] = deque(maxlen=OF_LAST)
        self._failures = 0

    def check(self) -> None:
        """Raises Halted while the service is stopped."""
        if self.declared:
            raise Halted(self.last_error)

    def succeeded(self, count: int) -> None:
        """So many messages were handled."""
        if count:
            self._in_a_row = 0
            falls_out = max(0, len(self._recent) + count - OF_LAST)
            self._failures -= sum(islice(self._recent, falls_out))
            self._recent.extend(repeat(0, min(count, OF_LAST)))

    def failed(self, error: str) -> bool:
        """A handler failed on one message alone. True: that was one too many, and nobody has said so yet."""
        self._in_a_row += 1
        if len(self._recent) == OF_LAST:
            self._failures -= self._recent[0]
        self._recent.append(1)
        self._failures += 1
        self.last_error = error
        share = len(self._recent) == OF_LAST and self._failures > SHARE * OF_LAST
        news = not self.declared and (self._in_a_row > IN_A_ROW or share)
        self.declared |= news
        self.unwritten |= news
        return news

    def counts(self) -> tuple[int, int]:
        """Failures, and messages they are counted among."""
        return self._failures, len(self._recent)

    async def read(self, db: asyncpg.Connection) -> None:
        """Learn what other members or an operator decided."""
        row = await db.fetchrow("select last_error from halt where lane = '*'")
        if self.unwritten:
            return
        if row is None and self.declared:
            self._in_a_row, self._failures = 0, 0
            self._recent.clear()
        self.declared, self.last_error = row is not None, row["last_error"] if row else ""


class Unstoppable(Halt):
    """The operators' lane goes on whatever fails in it: nobody else could resume it."""

    @override
    def failed(self, error: str) -> bool:
        """Its messages are parked, and that is all."""
        return False

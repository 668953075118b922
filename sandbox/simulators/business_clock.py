"""What time is it for a provider? The services' business time: it moves when an operator moves theirs."""

import asyncio
from datetime import datetime, timedelta, timezone
from typing import cast

import asyncpg

BEIJING = timezone(timedelta(hours=8))
_PATIENCE_SECONDS = 5.0


class BusinessClock:
    """The system's clock plus the offset row of payment. database: how it is reached; empty: no offset."""

    def __init__(self, database: str) -> None:
        self._database, self._skew = database, timedelta(0)
        self._db, self._turn = cast(asyncpg.Connection | None, None), asyncio.Lock()

    async def now(self) -> datetime:
        """The business instant, +08:00."""
        if self._database:
            async with self._turn:
                await self._look()
        return datetime.now(BEIJING) + self._skew

    async def _look(self) -> None:
        try:
            if self._db is None or self._db.is_closed():
                self._db = await asyncpg.connect(self._database, ssl="disable", timeout=_PATIENCE_SECONDS)
            self._skew = await self._db.fetchval("select skew from payment.clock", timeout=_PATIENCE_SECONDS)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pass  # it is away, and nobody moves its clock meanwhile

    def close(self) -> None:
        """Let go of the database."""
        if self._db is not None:
            self._db.terminate()

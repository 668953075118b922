"""What is the business instant in the sandbox when it starts?"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import asyncpg

from contracts.topics import SERVICES
from sandbox.stack import Stack

BEGINS = datetime.fromisoformat("2024-12-20T09:00+08:00")  # inside the collection window of the policy pack
BEIJING = ZoneInfo("Asia/Shanghai")
_CLOCKS = (*SERVICES, "console")


async def begin(stack: Stack) -> timedelta:
    """Business clock minus system clock. Where nothing has happened yet it is BEGINS; after that the clock
    only goes forward. Call it before services run.
    """
    db = await asyncpg.connect(stack.pg_admin_dsn, database=stack.database, ssl="disable")
    try:
        async with db.transaction():
            if await _is_new(db):
                skew = BEGINS - datetime.now(UTC)
                for service in _CLOCKS:
                    await db.execute(f"update {service}.clock set skew = $1", skew)  # noqa: S608 - names of ours
        kept: timedelta = await db.fetchval("select skew from payment.clock")
        return kept
    finally:
        await db.close()


async def _is_new(db: "asyncpg.Connection") -> bool:
    """No clock was ever set, and nothing was ever consumed."""
    for service in _CLOCKS:
        if await db.fetchval(f"select skew <> interval '0' from {service}.clock"):  # noqa: S608 - as above
            return False
        if await db.fetchval(f"select exists (select from {service}.inbox)"):  # noqa: S608 - as above
            return False
    return True

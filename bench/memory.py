"""How much memory did each process take at most? Its proportional share, looked at while it works."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

_LOOK_SECONDS = 0.5


def pss(pid: int) -> int:
    """Bytes; 0: it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


@asynccontextmanager
async def peaks(pids: Callable[[], Mapping[str, int]]) -> AsyncIterator[dict[str, int]]:
    """The most bytes of each, by name, while the block lasts. pids: who runs now."""
    most: dict[str, int] = {}

    def look() -> None:
        for name, pid in pids().items():
            most[name] = max(most.get(name, 0), pss(pid))

    async def watch() -> None:
        while True:
            look()
            await asyncio.sleep(_LOOK_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield most
        look()
    finally:
        watching.cancel()

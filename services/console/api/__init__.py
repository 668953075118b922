"""What does the console's page answer? Live counts, one search box, and the timeline behind it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from services.chassis.database import connect, is_passing
from services.console import store
from services.console.api import pages
from services.console.rules import is_personal

MOST_AT_ONCE = 4  # connections for readers: the page never takes what the lanes need
_FILES = {"style.css": "text/css", "live.js": "text/javascript"}
_HEADERS = {
    # Nothing from elsewhere, nothing inline, in nobody's frame; ids stay out of referrers and caches.
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def routes(database: str) -> list[Route]:
    """GET / (the page), /live (its counts alone), /timeline?id=… (leads to /timeline/…), /timeline/{id}.
    What looks like an ID number or a phone leads to /sealed, so that no address keeps it.

    400: ID numbers and phones find nobody. 404: nobody has said anything about it.
    503: the database is away. database: its address, as the console.
    """
    turns = asyncio.Semaphore(MOST_AT_ONCE)

    @asynccontextmanager
    async def reading() -> AsyncIterator[store.Reads]:
        async with turns:
            db = await connect(database, "console-page")
            try:
                yield db
            finally:
                await db.close()

    async def counted() -> str:
        async with reading() as db:
            return pages.live(await store.counts(db))

    async def home(_: Request) -> Response:
        return _html(pages.home(await counted()))

    async def live(_: Request) -> Response:
        return _html(await counted())

    async def timeline(request: Request) -> Response:
        wanted = request.path_params["id"]
        if is_personal(wanted):
            return RedirectResponse("/sealed", 303, _HEADERS)
        async with reading() as db:
            found = await store.timeline(db, wanted)
        return _html(pages.timeline(wanted, found), 404 if found is None else 200)

    found = [("/", home), ("/live", live), ("/timeline/{id:path}", timeline)]
    return [
        *(Route(path, _or_away(page)) for path, page in found),
        Route("/timeline", _search),
        Route("/sealed", _sealed),
        *(Route(f"/{name}", _file) for name in _FILES),
    ]


async def _search(request: Request) -> Response:
    wanted = request.query_params.get("id", "").strip()
    if is_personal(wanted):
        return RedirectResponse("/sealed", 303, _HEADERS)
    return RedirectResponse(f"/timeline/{quote(wanted, safe='')}" if wanted else "/", 303, _HEADERS)


async def _sealed(_: Request) -> Response:
    return _html(pages.sealed(), 400)


async def _file(request: Request) -> Response:
    name = request.url.path.removeprefix("/")
    return Response(Path(__file__).with_name(name).read_bytes(), headers=_HEADERS, media_type=_FILES[name])


def _or_away(page: pages.Answers) -> pages.Answers:
    """The page, or one that says that the database is away."""

    async def answer(request: Request) -> Response:
        try:
            return await page(request)
        except Exception as error:
            if not is_passing(error):
                raise
            return _html(pages.away(), 503)

    return answer


def _html(text: str, status: int = 200) -> Response:
    return Response(text, status, _HEADERS, "text/html")

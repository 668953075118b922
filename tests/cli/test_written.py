"""Is an event found in an outbox by the time in its id, wherever it stands?"""

from cli.written import standing
from services.chassis.ids import uuid7
from tests.ground import Database

_ROWS = """
insert into billing.outbox(batch_id, n, part, topic, type, seq, key, ce_id, subject, ce_time, journey, at)
select b, 0, 0, 't', 'x', 1, 'k', uuidv7(make_interval(mins => b - 1000)), '', now(), null,
       now() + make_interval(mins => b - 1000)
from generate_series(1, 1000) b where b % 7 <> 0
returning ce_id::text, batch_id"""


async def test_every_event_of_many_hours_is_found_and_no_other(database: Database) -> None:
    async with database.connect() as db:
        rows = await db.fetch(_ROWS)
        said = {row[0] for row in rows}
        late = next(row[0] for row in rows if row[1] == 500)
        await db.execute(
            "update billing.outbox set batch_id = 2000, at = now() where ce_id = $1::uuid", late
        )  # hours later than its id says: only a look at everything finds it
        asked = {"billing": {*said, uuid7()}, "payment": {*said}, "notify": set[str]()}
        assert await standing(db, asked) == said
        assert await standing(db, {"payment": said}) == set()

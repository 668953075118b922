"""What is one payload of the fuzz, and what must become of it?"""

from typing import Literal, NamedTuple

from sandbox.partner import Letter

# parked: set aside with a reason. refused: answered with one. handled: as if nothing had been changed.
# silent: nobody says a word (another's type, a fact that is known already).
Outcome = Literal["parked", "refused", "handled", "silent"]


class Due(NamedTuple):
    """What must become of a payload. reasons: any of these. path: the field that must be named, if one can.

    by: who must say so; of what is answered, nobody asks.
    """

    outcome: Outcome
    reasons: tuple[str, ...] = ()
    path: str = ""
    by: tuple[str, ...] = ()


class Payload(NamedTuple):
    """One record. what: contract and mutation, for people. principal: who writes it to Kafka. partner,
    request_id: by what an answer is known; empty: there is none. part: the partition it is put on.
    """

    number: int
    what: str
    principal: str
    letter: Letter
    part: int
    due: Due
    partner: str = ""
    request_id: str = ""

"""Does the simulation find a planted bug, and by which seed? `python -m tests.simulation.seek NAME SEEDS`, in
a process of its own: a bug stands in the source that it imports.
"""

import json
import sys

from tests.faults.bugs import plant


def seek(name: str, seeds: int) -> dict[str, str | int]:
    """seeds: how many were played, the last of which found what; what: empty if none did."""
    from tests.simulation.ground import standing  # noqa: PLC0415 -- the bug stands in what this imports
    from tests.simulation.runs import Stage  # noqa: PLC0415 -- as above

    with standing() as ground, Stage(ground) as stage:
        for seed in range(seeds):
            if failures := stage.seed(seed).failures:
                return {"what": failures[0], "seeds": seed + 1}
    return {"what": "", "seeds": seeds}


if __name__ == "__main__":
    plant(sys.argv[1])
    print(json.dumps(seek(sys.argv[1], int(sys.argv[2])), ensure_ascii=False))  # noqa: T201

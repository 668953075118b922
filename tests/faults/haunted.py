"""How does a service run under fire? As ever, but it can be told where to die, and may have a bug in it.

`python -m tests.faults.haunted` with CANBAO_SETTINGS as every service. Beside the folder of the settings lies
the folder `haunt`: `bug` names the planted bug, `arm-<service>` the point at which to die. With CANBAO_TOY it
is the toy, whose file names the bug.
"""

import json
import os
import runpy
from pathlib import Path

from services.chassis.settings import load_settings
from tests.faults import bugs


def main() -> None:
    """Never comes back before the service has ended."""
    if toy := os.environ.get("CANBAO_TOY"):
        bugs.plant(json.loads(Path(toy).read_bytes())["bug"])
        runpy.run_module("tests.faults.toy", run_name="__main__")
        return
    folder = Path(os.environ["CANBAO_SETTINGS"]).parents[1] / "haunt"
    service = load_settings().service
    if (bug := folder / "bug").exists():
        bugs.plant(bug.read_text(encoding="utf-8"))
    from tests.faults import points  # noqa: PLC0415 -- it loads the engine, which must be patched before

    points.haunt(points.Reaper(folder, service))
    runpy.run_module(f"services.{service}.app", run_name="__main__")


if __name__ == "__main__":
    main()

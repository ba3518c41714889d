"""Kills jobs at random moments: ``make faults``.

Each line of the output is one kind of job: how often it was killed, and what came of it. The exit status is 1 where
anything was lost, half-written or ended in a stack trace.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before Paddle is imported: sums come out the same everywhere

from kills import Kills
from runs import Broken, start_server

KILLS = ("compress", "search", "export", "formats", "checkpoints")


def main() -> int:
    """Kills all kinds of jobs, or those that are named; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--kills", type=int, default=30, help="of each kind")
    parser.add_argument("--only", nargs="*", choices=KILLS, help="some kinds; by default all")
    parser.add_argument("--json", type=Path, help="also write the outcomes to this file")
    chosen = parser.parse_args()
    outcomes: dict[str, str] = {}
    failed = False
    with tempfile.TemporaryDirectory(prefix="ofa-slim-faults-") as name:
        folder = Path(name)
        start_server()
        (folder / "tmp").mkdir()
        os.environ["TMPDIR"] = str(folder / "tmp")  # killed processes leave their temporary files there
        tempfile.tempdir = None
        kills = Kills(folder, chosen.kills, chosen.seed)
        kinds = {"prepare": kills.prepare} | {kind: getattr(kills, kind) for kind in KILLS}
        for kind, function in kinds.items():
            if kind != "prepare" and chosen.only is not None and kind not in chosen.only:
                continue
            failed |= not told(kind, function, outcomes)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(outcomes, indent=1) + "\n", encoding="utf-8")
    return int(failed)


def told(kind: str, function: object, outcomes: dict[str, str]) -> bool:
    """Kills one kind of job and prints what came of it; whether it was survived."""
    start, load = time.monotonic(), os.getloadavg()[0]
    try:
        outcome, survived = str(function()), True  # type: ignore[operator]
    except Broken as error:
        outcome, survived = f"BROKEN: {error}", False
    outcomes[kind] = f"{outcome} ({time.monotonic() - start:.0f} s, load {load:.1f} to {os.getloadavg()[0]:.1f})"
    print(f"{kind:<12} {outcomes[kind]}", flush=True)
    return survived


if __name__ == "__main__":
    sys.exit(main())

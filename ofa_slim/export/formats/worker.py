"""Serves one written model to `timing`: ``python worker.py FOLDER INPUTS``, then requests on standard input.

Each model has a process of its own, because thread pools that share one get in each other's way: the threads of one
engine still spin when the next one's begin.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from ofa_slim.export.formats.opened import Opened
from ofa_slim.export.formats.reader import read_samples


def main(folder: str, file: str) -> None:
    """Answers lines of ``number of the input, seconds to take`` with the seconds of each run, until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    model = Opened(Path(folder))
    inputs = read_samples(Path(file))
    print("[]", file=answers, flush=True)
    for line in sys.stdin:
        number, allowed = json.loads(line)
        given = inputs[number]
        model(given)
        begin = time.perf_counter()
        taken: list[float] = []
        while len(taken) < 2 or (len(taken) < 10 and time.perf_counter() - begin < allowed):
            start = time.perf_counter()
            model(given)
            taken.append(time.perf_counter() - start)
        print(json.dumps(taken), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

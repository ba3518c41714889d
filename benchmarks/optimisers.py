"""NSGA-II against random search and TPE, at equal evaluations, on one supernet of SST-2.

Every optimiser begins with the same uniform sub-networks and gets the same number of evaluations; each seed gives all
of them the same randomness to begin with. What counts is the hypervolume: the area that the sub-networks found so far
dominate in the plane of score (mean probability of the right label on rows that nothing trained on, above 0.5) and
multiply-accumulates (below the original's), as a share of all of it. Scores are kept by config for all searches
together, so no sub-network is run twice.

The supernet is that of `search.py` (sandwich rule over ten sizes of the heads and of the feed-forward part of each
layer) on fewer rows; it and the fine-tuned checkpoint are kept in the output directory.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from search import KINDS, METRIC, scorer  # isort: skip
from sst2 import ROOT, add_options, missing, prepare, trained_supernet  # isort: skip
from ofa_slim import OFA
from ofa_slim.search import Point, SearchConfig, stratified
from ofa_slim.search.front import hypervolume

OPTIMISERS = {
    "random search": ("random", False),
    "TPE": ("tpe", False),
    "NSGA-II": ("nsga2", False),
    "NSGA-II and regressor": ("nsga2", True),
}
BASE = "random search"
COLORS = dict(zip(OPTIMISERS, ("0.45", "#009e73", "#d55e00", "#0072b2"), strict=True))
CHANCE = 0.5  # the score of a coin
SHAPES = [[1, 64], [1, 64]]

Volumes = Mapping[str, np.ndarray]
"""The hypervolume after each evaluation, float64 [seeds, evaluations], by optimiser."""


class Memo:
    """A function of the OFA model that computes each sub-network's score once.

    Attributes:
        scores: by config, as JSON.
        asked: how often it was called.
    """

    def __init__(self, score: Callable[[Any], dict[str, float]]) -> None:
        self._score = score
        self.scores: dict[str, dict[str, float]] = {}
        self.asked = 0

    def __call__(self, ofa: OFA) -> dict[str, float]:
        config = ofa.net_config
        if config is None:
            raise RuntimeError("no sub-network is set, so there is nothing to keep its score by")
        self.asked += 1
        if config.to_json() not in self.scores:
            self.scores[config.to_json()] = self._score(ofa)
        return self.scores[config.to_json()]


def curve(points: Sequence[Point], cost: str) -> np.ndarray:
    """The hypervolume after each of some evaluations, as a share of what score and cost could at best give.

    Args:
        points: in the order in which they were scored.
        cost: a share of the original's, such as ``"flops_ratio"``; its reference is the original.

    Returns: float64 [evaluations], from 0 to 1, never falling.
    """
    pairs = [(point.score, point.costs[cost]) for point in points]
    volumes = [hypervolume(pairs[: count + 1], (CHANCE, 1.0)) for count in range(len(pairs))]
    return np.array(volumes) / (1 - CHANCE)


def paired(volumes: Volumes, name: str, base: str = BASE) -> np.ndarray:
    """By how much an optimiser is ahead of another with the same seed, float64 [seeds, evaluations]."""
    return volumes[name] - volumes[base]


def reached(volumes: Volumes, name: str, base: str = BASE) -> int | None:
    """After how many evaluations an optimiser's mean is what the other's is at its end; None: not at all."""
    mean = volumes[name].mean(axis=0)
    enough = np.flatnonzero(mean >= volumes[base].mean(axis=0)[-1])
    return int(enough[0]) + 1 if len(enough) else None


def shared(volumes: Volumes) -> int:
    """How many evaluations all searches have in common: those of the uniform sub-networks that they begin with."""
    every = np.concatenate(list(volumes.values()))
    apart = np.flatnonzero((every != every[0]).any(axis=0))
    return int(apart[0]) if len(apart) else every.shape[1]


def error_of(values: np.ndarray) -> np.ndarray:
    """The standard error of the mean over seeds."""
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def run(ofa: OFA, score: Memo, names: Sequence[str], seeds: Sequence[int], evaluations: int) -> dict[str, np.ndarray]:
    """One search per optimiser and seed."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for seed in seeds:
        for name in names:
            algorithm, regressor = OPTIMISERS[name]
            start = time.perf_counter()
            config = SearchConfig(
                candidates=evaluations, algorithm=algorithm, regressor=regressor, metric=METRIC, seed=seed,
                input_shapes=SHAPES, directory=None, winners=0, progress=False,
            )  # fmt: skip
            # The limit leaves nothing out; it says that operations are traded for the score.
            points = ofa.search(score, {"flops_ratio": 1.0}, config).points
            found[name].append(curve(points, "flops_ratio"))
            seconds = time.perf_counter() - start
            print(f"seed {seed}, {name}: {found[name][-1][-1]:.4f} in {seconds:.0f} s", flush=True)
    return {name: np.array(values) for name, values in found.items()}


def show(volumes: Volumes) -> None:
    """Prints the table of the README."""
    first = shared(volumes)
    print(f"The first {first} evaluations are the same for all; hypervolume after them: ", end="")
    print(f"{volumes[BASE][0, first - 1]:.4f}" if first else "0")
    print("| optimiser | hypervolume | seeds | to random search, same seed | ahead in | its last volume after |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for name, values in volumes.items():
        last = values[:, -1]
        cells = [name, f"{last.mean():.4f} ± {error_of(last):.4f}", ", ".join(f"{value:.4f}" for value in last)]
        if name == BASE:
            cells += ["", "", ""]
        else:
            ahead = paired(volumes, name)[:, -1]
            cells += [f"{ahead.mean():+.4f} ± {error_of(ahead):.4f}", f"{int((ahead > 0).sum())} of {len(ahead)}"]
            cells.append(str(reached(volumes, name) or "not reached"))
        print("| " + " | ".join(cells) + " |")


def draw(volumes: Volumes, file: Path) -> None:
    """Two pictures side by side: the hypervolumes, and how far each optimiser is ahead of random search."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in volumes.items():
        evaluations = np.arange(1, values.shape[1] + 1)
        sides = [(left, values)] if name == BASE else [(left, values), (right, paired(volumes, name))]
        for axes, shown in sides:
            mean, error = shown.mean(axis=0), error_of(shown)
            axes.plot(evaluations, mean, color=COLORS[name], label=name)
            axes.fill_between(evaluations, mean - error, mean + error, color=COLORS[name], alpha=0.18, linewidth=0)
    right.axhline(0, color=COLORS[BASE], linewidth=1)
    left.set_title(f"mean and standard error of {len(volumes[BASE])} seeds", fontsize=10)
    right.set_title("ahead of random search with the same seed", fontsize=10)
    left.set_ylabel("hypervolume (share)")
    first = max(shared(volumes), 1)
    low, high = float(volumes[BASE][0, first - 1]), max(float(values.max()) for values in volumes.values())
    left.set_ylim(low, high + 0.1 * (high - low))
    for axes in (left, right):
        axes.set_xlim(left=first, right=volumes[BASE].shape[1])
        axes.set_xlabel("sub-networks scored")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="upper left")
    FigureCanvasAgg(figure)
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    parser.set_defaults(seeds=[1, 2, 3, 4, 5], output_dir=ROOT / "runs/optimisers", importance_batches=60)
    parser.add_argument("--train_rows", type=int, default=3000, help="to fine-tune and train the supernet on")
    parser.add_argument("--epochs", type=int, default=1, help="of supernet training")
    parser.add_argument("--evaluations", type=int, default=96, help="of each search; 24 are a generation of NSGA-II")
    parser.add_argument("--rows", type=int, default=128, help="of those that nothing trained on, to score on")
    parser.add_argument("--against", nargs="+", choices=[name for name in OPTIMISERS if name != BASE], default=None)
    parser.add_argument("--picture", type=Path, default=ROOT / "docs/images/optimisers.png")
    options = parser.parse_args()
    if reason := missing(options):
        print(f"optimisers: {reason}")
        return
    start = time.perf_counter()
    options.output_dir /= f"{options.train_rows}-rows"
    teacher, train, sets = prepare(options, options.train_rows)
    kind = next(kind for kind in KINDS if kind.name == "sandwich")
    ofa = trained_supernet(kind, options, teacher, train, options.epochs, 1)
    print(f"optimisers: the supernet is there after {time.perf_counter() - start:.0f} s", flush=True)
    unseen = sets["held-out"]
    score = Memo(scorer(unseen.take(stratified(unseen.labels, options.rows))))
    start = time.perf_counter()
    names = [BASE, *(options.against or [name for name in OPTIMISERS if name != BASE])]
    volumes = run(ofa, score, names, options.seeds, options.evaluations)
    seconds = time.perf_counter() - start
    show(volumes)
    draw(volumes, options.picture)
    print(f"optimisers: {score.asked} evaluations of {len(score.scores)} sub-networks in {seconds:.0f} s")
    output = {"benchmark": "optimisers", "evaluations": options.evaluations, "rows": options.rows}
    curves = {name: values.round(5).tolist() for name, values in volumes.items()}
    print(json.dumps({**output, "seconds": round(seconds, 1), "hypervolumes": curves}))


if __name__ == "__main__":
    main()

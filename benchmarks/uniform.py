"""Sizes chosen for every part against the same width in every block that stays: MiniLM on SST-2 in 8 bits.

Both keep within the same share of the original's latency (the table of `harder.py`: one row of 64 tokens). Of the same
width, every depth is tried with the largest width that fits. All are in the same order, refitted on the same rows,
trained alone for as long (see `harder.py`), and scored in 8 bits as read back. Differences are paired: over the same
rows, with an interval of 95 % from their standard error. With --ablate the chosen sizes of a share also do
without each of the steps: trying fewer blocks, leaving whole parts out, the order (|parameter * gradient| in its
place), the refitting, the training. With --vocabulary copies of the chosen ones also do without the tokens that no
training text has.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from closed_form import as_supernet, inputs
from harder import FORMAT, Written, add_training_options, finish_of, table_of, with_fewer_tokens
from ofa_slim.closed_form import Calibration, Curve, measure_curves, reorder_by_obs, repair, statistics
from ofa_slim.closed_form.calibration import without_labels
from ofa_slim.errors import CalibrationError
from ofa_slim.export.cut import export_subnet
from ofa_slim.job.distilling import finished
from ofa_slim.job.trials import at_each_depth, best_learner
from ofa_slim.measure import LatencyTable
from ofa_slim.supernet.axis import WIDTH
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.subnet_config import SubnetConfig
from ofa_slim.train.batches import Batches, Examples
from sst2 import BATCH, add_options, missing, prepare, reordered

Cost = Callable[[Mapping[str, int]], float]


def same_width(whole: Supernet, blocks: int, time_of: Cost, most: float) -> SubnetConfig | None:
    """The largest width within a time where so many blocks stay, evenly spread; None where a tenth is too slow."""
    parts = [axis for axis in whole.space.axes if axis.task == WIDTH]
    count = len(parts) // 2
    stay = {round(place) for place in np.linspace(0, count - 1, blocks)}
    for percent in range(100, 9, -1):
        sizes = {
            axis.name: max(1, round(percent / 100 * axis.size)) if number // 2 in stay else 0
            for number, axis in enumerate(parts)
        }
        if time_of(sizes) <= most:
            return whole.space.complete(sizes)
    return None


def difference(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """How many points more are right in the first, with the half of its interval of 95 %."""
    paired = first.astype(float) - second
    return {"points": 100 * paired.mean(), "interval": 196 * paired.std(ddof=1) / len(paired) ** 0.5}


class Seed:
    """The networks of one seed, as they are made.

    Args:
        model: the fine-tuned model.
        train: its training rows.
        table: predicts times.
        written: receives the networks.
        options: of the command line.
        seed: draws the calibration rows, and the order of training.
    """

    def __init__(
        self,
        model: nn.Layer,
        train: Examples,
        table: LatencyTable,
        written: Written,
        options: argparse.Namespace,
        seed: int,
    ) -> None:
        self.model, self.train, self.table, self.written = model, train, table, written
        self.options, self.seed = options, seed
        self.calibration = Calibration(model, inputs(train, options.rows, np.random.default_rng(seed)))
        moments = statistics(model, self.calibration)
        removals = moments.removals(model)
        ordered = copy.deepcopy(model)
        reorder_by_obs(ordered, removals)
        self.whole = as_supernet(ordered)
        self.parts = moments.parts
        self.curves = measure_curves(model, self.calibration.part(256), moments, removals, omit=True)
        self.largest = self.time_of(self.whole.space.largest())

    def time_of(self, sizes: Mapping[str, int]) -> float:
        """The predicted milliseconds of sizes."""
        return self.table.predict(self.whole.space.complete(sizes))

    def chosen(self, share: float, curves: Sequence[Curve], trials: bool = True) -> SubnetConfig:
        """The sizes of least loss within a share of the original's time: of all blocks, or what learns best."""
        sizes = at_each_depth(curves, self.parts, self.time_of, share * self.largest)
        configs = [self.whole.space.complete(one) for one in sizes]
        if not trials:
            return configs[0]
        loader = Batches(self.train, BATCH, np.random.default_rng(self.seed))
        finish = finish_of(self.options, self.seed, len(self.train))
        return best_learner(self.whole, configs, self.model, self.calibration, loader, finish, None)

    def add(
        self,
        name: str,
        config: SubnetConfig,
        whole: Supernet | None = None,
        refit: bool = True,
        trained: bool = True,
        fewer_tokens: bool = False,
    ) -> dict[str, Any]:
        """Cuts, refits, trains and writes a network, where asked also with fewer tokens; returns what it is."""
        paddle.seed(self.seed)
        small = export_subnet(whole or self.whole, config)
        if refit:
            repair(small, self.model, self.calibration)
        if trained:
            loader = Batches(self.train, BATCH, np.random.default_rng(self.seed))
            finish = finish_of(self.options, self.seed, len(self.train))
            finished(small, self.model, loader, without_labels, finish, None)
        self.written.add(f"{name}-seed-{self.seed}", small)
        if fewer_tokens:
            with_fewer_tokens(f"{name}-fewer-tokens-seed-{self.seed}", small, self.written, self.options)
        return {"model": name, "seed": self.seed, "share": self.time_of(config) / self.largest, "config": dict(config)}

    def better(self, first: str, second: str) -> dict[str, float]:
        """By how much one network is better than another."""
        first_right, second_right = (self.written.right[f"{name}-seed-{self.seed}"] for name in (first, second))
        return difference(first_right["held-out"], second_right["held-out"])

    def against_uniform(self, share: float) -> Iterator[dict[str, Any]]:
        """The chosen network of a share, and those of the same width at every depth."""
        chosen = f"{share:g}-chosen"
        yield self.add(chosen, self.chosen(share, self.curves), fewer_tokens=self.options.vocabulary)
        for blocks in self.options.blocks:
            config = same_width(self.whole, blocks, self.time_of, share * self.largest)
            if config is not None:
                name = f"{share:g}-{blocks}-blocks"
                yield {**self.add(name, config), "chosen is better by": self.better(chosen, name)}

    def ablations(self, share: float) -> Iterator[dict[str, Any]]:
        """The chosen network of a share, and what it is without one of the steps."""
        config = self.chosen(share, self.curves)
        yield self.add("all steps", config)
        some = [Curve(curve.axis, curve.sizes[1:], curve.losses[1:]) for curve in self.curves]
        by_gradient = as_supernet(
            reordered(self.model, self.train, self.options.importance_batches, np.random.default_rng(self.seed))
        )
        for name, result in (
            ("all blocks", lambda name: self.add(name, self.chosen(share, self.curves, trials=False))),
            ("all parts stay", lambda name: self.add(name, self.chosen(share, some))),
            ("gradient order", lambda name: self.add(name, config, by_gradient)),
            ("not refitted", lambda name: self.add(name, config, refit=False)),
            ("not trained", lambda name: self.add(name, config, trained=False)),
            ("neither", lambda name: self.add(name, config, refit=False, trained=False)),
        ):
            try:
                yield {**result(name), "all steps are better by": self.better("all steps", name)}
            except CalibrationError as error:  # the smallest sizes of all parts may take too long
                yield {"model": name, "seed": self.seed, "impossible": str(error)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(seeds=[1])
    parser.add_argument("--shares", type=float, nargs="*", default=[0.35, 0.25])
    parser.add_argument("--blocks", type=int, nargs="*", default=[1, 2, 3, 4, 5, 6], help="depths of the same width")
    parser.add_argument("--ablate", type=float, nargs="*", default=[], metavar="SHARE")
    parser.add_argument("--vocabulary", action="store_true", help="the chosen networks with fewer tokens too")
    add_training_options(parser)
    options = parser.parse_args()
    if reason := missing(options):
        print(f"uniform: {reason}")
        return
    model, train, sets = prepare(options)
    table = table_of(model, options.output_dir / f"latency-{FORMAT}.json")
    with tempfile.TemporaryDirectory() as name:
        written = Written(Path(name), sets)
        written.add("original", model)
        results = []
        for number in options.seeds:
            seed = Seed(model, train, table, written, options, number)
            asked = [seed.against_uniform(share) for share in options.shares]
            asked += [seed.ablations(share) for share in options.ablate]
            for result in itertools.chain.from_iterable(asked):
                print(json.dumps(result), flush=True)
                results.append(result)
        written.timed(5000)
    print(json.dumps({"benchmark": "uniform", "results": results, "written": written.rows}))


if __name__ == "__main__":
    main()

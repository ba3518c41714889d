"""`LatencyTable`: the measured time of each block of a supernet, and of the rest of the model."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

from ofa_slim.base.checks import checked_path
from ofa_slim.base.clock import Rule
from ofa_slim.base.files import atomic_file
from ofa_slim.base.json_files import read_json
from ofa_slim.errors import LatencyError
from ofa_slim.measure.block_times import BlockTimes, Conditions, Times, TimesAcross
from ofa_slim.measure.blocks import Block, Dimension, Dropped, Repeated
from ofa_slim.measure.table_builder import measure_blocks
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.subnet_config import SubnetConfig

logger = logging.getLogger(__name__)

_FORMAT = 2


class LatencyTable:
    """The time of each distinct block of a supernet's sub-networks, and of the rest of the model.

    The prediction for a sub-network is ``fixed + scale * (sum of its blocks)``. Both numbers are fitted to some whole
    sub-networks that were measured: `scale` is 1 where blocks take as long in a model as alone. For these, the original
    among them, the measured time itself is returned.

    Args:
        about: the conditions under which the times hold.
        blocks: the blocks of the model.
        times: by kind of block.
        fixed: milliseconds.
        scale: see above.
        measured_subnets: milliseconds of the sub-networks that were measured.
    """

    def __init__(
        self,
        about: Conditions,
        blocks: Sequence[Block],
        times: Mapping[str, Times | TimesAcross],
        fixed: float,
        scale: float,
        measured_subnets: Mapping[SubnetConfig, float] | None = None,
    ) -> None:
        self.about = about
        self._block_times = BlockTimes(blocks, times)
        self.fixed = fixed
        self.scale = scale
        self.measured_subnets = dict(measured_subnets or {})

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of the model."""
        return self._block_times.blocks

    @property
    def times(self) -> dict[str, Times | TimesAcross]:
        """The times of each kind of block."""
        return self._block_times.times

    @classmethod
    def build(
        cls,
        ofa: Any,
        *,
        input_shapes: Any = None,
        input_dtypes: Any = None,
        engine: str = "inference",
        choices: Mapping[str, Iterable[int]] | None = None,
        rule: Rule | None = None,
        progress: bool = True,
    ) -> LatencyTable:
        """Measures the blocks of a supernet on this machine.

        Each distinct block is timed alone, in turns with others and with the whole model, until the medians are steady;
        blocks of a stack at up to 12 choices of each axis, all of these at up to 4 hidden sizes where that is elastic,
        other layers at up to 3 of each dimension. What lies between is interpolated.

        Args:
            ofa: an `OFA`, or a `Supernet`.
            input_shapes: of one call, as in `OFA.export`: a time holds for one batch size and length.
            input_dtypes: as in `OFA.export`.
            engine: that will serve: ``"inference"`` is Paddle Inference with oneDNN, ``"onnx"`` ONNX Runtime, each on
                as many threads as Paddle was told to use (`OMP_NUM_THREADS`).
            choices: other choices than those of the search space, ``{axis name: sizes}``.
            rule: how long to measure.
            progress: whether to show a bar.

        Raises: LatencyError where blocks cannot be timed alone, or the engine cannot run here.
        """
        return cls(*measure_blocks(Supernet.of(ofa), input_shapes, input_dtypes, engine, choices, rule, progress))

    def predict(self, config: Mapping[str, int]) -> float:
        """Milliseconds of one forward of a sub-network."""
        known = self.measured_subnets.get(SubnetConfig(config))
        return self.fixed + self.scale * self.blocks_ms(config) if known is None else known

    def blocks_ms(self, config: Mapping[str, int]) -> float:
        """Milliseconds of its blocks alone."""
        return self._block_times(config)

    @property
    def key(self) -> str:
        """A hash of all times."""
        return blake2b(self._to_json().encode(), digest_size=8).hexdigest()

    def check(self, ofa: Any, input_shapes: Any = None, input_dtypes: Any = None, engine: str | None = None) -> None:
        """Checks that the times hold here, for this supernet and these inputs; with `engine` also that they are of it.

        Raises: LatencyError that names what differs.
        """
        supernet = Supernet.of(ofa)
        tensors = supernet.example(input_shapes, input_dtypes).tensors
        here = Conditions.here(supernet.model, tensors, engine or self.about.engine)
        for name, there in asdict(self.about).items():
            now = asdict(here)[name]
            if name != "measured" and there != now:
                raise LatencyError(
                    f"the latency table holds for another {name}: {there!r} there, {now!r} here; measure again with "
                    "LatencyTable.build"
                )

    def save(self, file: str | os.PathLike[str]) -> None:
        """Writes the table as JSON; it is written aside and renamed."""
        target = checked_path(file, "file", LatencyError)
        with atomic_file(target) as aside:
            aside.write_text(self._to_json(), encoding="utf-8")

    def _to_json(self) -> str:
        kinds = {kind: number for number, kind in enumerate(self.times)}
        blocks = [{**asdict(block), "kind": kinds[block.kind]} for block in self.blocks]
        content = {
            "format": _FORMAT,
            "about": asdict(self.about),
            "fixed_ms": self.fixed,
            "scale": self.scale,
            "measured_subnets": {config.to_json(): ms for config, ms in self.measured_subnets.items()},
            "kinds": [{"kind": kind, **asdict(times)} for kind, times in self.times.items()],
            "blocks": blocks,
        }
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> LatencyTable:
        """Reads what `save` wrote; `check` says whether it holds here.

        Raises: LatencyError for a file that is not a latency table, or is damaged.
        """
        path = checked_path(file, "file", LatencyError)
        try:
            content = read_json(path)
        except OSError as error:
            raise LatencyError(f"{path}: cannot read the latency table ({error.strerror})") from error
        except ValueError as error:  # no JSON, or no text
            raise LatencyError(f"{path} is not a latency table: {error}") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise LatencyError(f"{path} is not a latency table of format {_FORMAT}")
        try:
            kinds = [(entry["kind"], _times(entry)) for entry in content["kinds"]]
            blocks = [_block(entry, kinds[entry["kind"]][0]) for entry in content["blocks"]]
            for _, times in kinds:
                times.check()
            about = Conditions(**content["about"])
            return cls(
                about,
                blocks,
                dict(kinds),
                float(content["fixed_ms"]),
                float(content["scale"]),
                {SubnetConfig.from_json(text): float(ms) for text, ms in content["measured_subnets"].items()},
            )
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise LatencyError(f"{path} is a damaged latency table: {type(error).__name__} {error}") from error


def _block(entry: Mapping[str, Any], kind: str) -> Block:
    dimensions = tuple(Dimension(dict(dimension["axes"])) for dimension in entry["dimensions"])
    said = entry["depth"]
    depth = None if said is None else (Dropped if "number" in said else Repeated)(**said)
    across = entry.get("across")
    hidden = None if across is None else Dimension(dict(across["axes"]))
    return Block(entry["path"], kind, dimensions, entry["additive"], depth, hidden)


def _times(entry: Mapping[str, Any]) -> Times | TimesAcross:
    if "each" in entry:
        each = [_times_at(times) for times in entry["each"]]
        return TimesAcross(tuple(entry["grid"]), tuple(each))
    return _times_at(entry)


def _times_at(entry: Mapping[str, Any]) -> Times:
    return Times(_tuples(entry["grid"]), _tuples(entry["values"]), float(entry["base"]), entry["additive"])


def _tuples(rows: Iterable[Iterable[Any]]) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(row) for row in rows)

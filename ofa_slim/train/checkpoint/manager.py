"""`CheckpointManager`: saves a run so that it continues with the same bits after it was killed."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ofa_slim.base.checks import check_whole, checked_path
from ofa_slim.base.settings import differences
from ofa_slim.errors import CheckpointError
from ofa_slim.train.checkpoint import codec
from ofa_slim.train.checkpoint.folders import (
    checkpoint_folders,
    make_directory,
    new_checkpoint,
    remove_checkpoint,
    remove_interrupted,
)
from ofa_slim.train.checkpoint.gradients import GRADIENTS, gradient_problems, gradients, set_gradients
from ofa_slim.train.checkpoint.manifest import (
    CorruptError,
    Manifest,
    read_manifest,
    summed,
    verify,
    versions,
    write_manifest,
)
from ofa_slim.train.checkpoint.optimizers import OptimizerPart
from ofa_slim.train.checkpoint.part_kinds import parts_of
from ofa_slim.train.checkpoint.parts import Part, StatefulPart
from ofa_slim.train.checkpoint.randomness import RANDOM, paddle_state, random_problems, set_paddle_state

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        step: the step after which it was saved.
        score: the score of that step; None without one.
        path: its folder; ``<part>.safetensors`` in it holds a layer's weights under the layer's keys.
    """

    step: int
    score: float | None
    path: Path


class CheckpointManager:
    """The checkpoints of one run in one directory, written by one process.

    Parts are given by name, the same names on save and restore: `paddle.nn.Layer`, lists or dictionaries of tensors,
    Paddle optimizers (whose parameters are in the parts too), LR schedulers, `paddle.amp.GradScaler`,
    `numpy.random.Generator`, and anything with `state_dict` and `set_state_dict` (or `load_state_dict`) whose state
    consists of tensors, arrays and JSON values. Paddle's random states and the gradients are saved with them. Not
    saved: train or eval mode, buffers that are not persistable, and the global states of `random` and `numpy.random`.

    Args:
        directory: the directory; made on the first save.
        recipe: settings of the run, as JSON values; checkpoints with other settings are refused.
        keep: how many of the newest checkpoints to keep, at least 1; the one with the best score is kept too.
        lower_is_better: whether the best score is the lowest.

    Raises: CheckpointError for invalid arguments.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        recipe: Mapping[str, Any] | None = None,
        keep: int = 2,
        lower_is_better: bool = False,
    ) -> None:
        check_whole(keep, "keep", 1, CheckpointError)
        self.directory = checked_path(directory, "directory", CheckpointError)
        self.recipe = _recipe(recipe or {})
        self.keep = keep
        self.lower_is_better = lower_is_better
        self._at: int | None = None  # the last step that was saved or restored

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints with a readable manifest, the oldest first."""
        return self._readable()[0]

    @property
    def latest(self) -> Checkpoint | None:
        """The newest checkpoint; None if there is none."""
        return next(reversed(self.checkpoints), None)

    @property
    def best(self) -> Checkpoint | None:
        """The earliest checkpoint with the best score; None if none has a score other than NaN."""
        return next(iter(self._by_score()), None)

    def check_recipe(self) -> None:
        """Compares the run's settings with those of the newest checkpoint.

        Raises: CheckpointError that names the keys that differ, with both values.
        """
        if newest := self.latest:
            self._check(newest.path, read_manifest(newest.path))

    def save(self, step: int, parts: Mapping[str, Any], score: float | None = None) -> Checkpoint:
        """Saves the run after a step. Older checkpoints are removed only after all of it is on the disk.

        After a restore of a checkpoint that was not the newest, the later ones are removed too.

        Args:
            step: the number of steps done; not below the last step that was saved or restored.
            parts: the parts of the run by name; each name is an identifier.
            score: the model's score now, for `best`.

        Raises: CheckpointError if the directory holds checkpoints with other settings or, without a restore, later
            steps; for a part that cannot be saved exactly; and for errors of the file system. Earlier checkpoints are
            then untouched, and nothing incomplete is left.
        """
        check_whole(step, "step", 0, CheckpointError)
        step = int(step)
        score = None if score is None else float(score)
        self.check_recipe()
        later = self._later(step)
        made = parts_of(parts)
        states = {name: codec.encode(part.state(), f"part {name!r}") for name, part in made.items()}
        states[RANDOM] = codec.encode(paddle_state(), "Paddle's random state")
        states[GRADIENTS] = codec.encode(gradients(made), "the gradients")
        make_directory(self.directory)
        remove_interrupted(self.directory)
        with new_checkpoint(self.directory, step) as folder:
            files = [file for name, state in states.items() for file in codec.write(folder, name, state)]
            kinds = {name: part.kind for name, part in made.items()}
            write_manifest(folder, Manifest(step, score, self.recipe, kinds, summed(files), versions()))
        self._at = step
        self._remove_old(later)
        return Checkpoint(step, score, checkpoint_folders(self.directory)[step])

    def restore(self, parts: Mapping[str, Any], partial: bool = False) -> int | None:
        """Loads the newest intact checkpoint into the parts, in place, gradients included.

        A damaged one is named in a warning, and the one before is taken. Everything is checked before anything is
        changed.

        Args:
            parts: as given to `save`.
            partial: whether to load only the given parts, without gradients and Paddle's random states.

        Returns: the checkpoint's step; None if there is no checkpoint.

        Raises: CheckpointError if no checkpoint is intact, or if settings, parts, keys, shapes or dtypes differ; it
            names each.
        """
        newest_first = list(reversed(checkpoint_folders(self.directory).values()))
        return self._restore(newest_first, parts, partial, [])

    def restore_best(self, parts: Mapping[str, Any], partial: bool = False) -> int | None:
        """Like `restore`, for the checkpoint with the best score; None if none has a score."""
        return self._restore([one.path for one in self._by_score()], parts, partial, self._readable()[1])

    def _restore(self, paths: list[Path], parts: Mapping[str, Any], partial: bool, damaged: list[str]) -> int | None:
        made = parts_of(parts)
        for path in paths:
            try:
                manifest = read_manifest(path)
                self._check(path, manifest)
                verify(path, manifest)
            except CorruptError as error:
                damaged.append(str(error))
                continue
            for message in damaged:
                logger.warning("skipping a damaged checkpoint: %s", message)
            self._load(path, manifest, made, partial)
            if not partial:
                self._at = manifest.step
            return manifest.step
        if damaged:
            raise CheckpointError(f"no checkpoint in {self.directory} is sound: {'; '.join(damaged)}")
        return None

    def _load(self, path: Path, manifest: Manifest, parts: Mapping[str, Part], partial: bool) -> None:
        """Checks everything, then does what may fail and can be undone, then what cannot fail."""
        wrong = [f"part {name!r} is not in the checkpoint" for name in parts if name not in manifest.parts]
        if not partial:
            wrong += [
                f"part {name!r} is in the checkpoint but not given" for name in manifest.parts if name not in parts
            ]
        for name, part in parts.items():
            if manifest.parts.get(name, part.kind) != part.kind:
                wrong.append(f"part {name!r} is a {manifest.parts[name]} in the checkpoint and a {part.kind} here")
        _refuse(path, wrong)
        try:
            saved = {name: codec.decode(codec.read(path, name)) for name in parts}
            built_in = {} if partial else {name: codec.decode(codec.read(path, name)) for name in (RANDOM, GRADIENTS)}
            wrong = [f"part {name!r}: {text}" for name, part in parts.items() for text in part.problems(saved[name])]
            if not partial:
                wrong += random_problems(built_in[RANDOM]) + gradient_problems(parts, built_in[GRADIENTS])
        except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{path} holds something else than the state of a run: {error}") from error
        _refuse(path, wrong)

        stateful = {name: part for name, part in parts.items() if isinstance(part, StatefulPart)}
        # Copied, as the owner may change the state that it returned.
        before = {name: codec.copied(part.state(), name) for name, part in stateful.items()}
        try:
            for name, part in stateful.items():
                part.load(saved[name])
            for name, part in parts.items():
                if isinstance(part, OptimizerPart):
                    part.prepare(saved[name])
        except Exception as error:
            for name, part in stateful.items():
                part.load(before[name])
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path} could not be restored, nothing was changed: {error}") from error
        for name, part in parts.items():
            if name not in stateful:
                part.load(saved[name])
        if not partial:
            set_gradients(parts, built_in[GRADIENTS])
            set_paddle_state(built_in[RANDOM])

    def _check(self, path: Path, manifest: Manifest) -> None:
        changed = differences(manifest.recipe, self.recipe)
        if changed:
            raise CheckpointError(
                f"{path} was saved by a run with other settings: {', '.join(changed)}. Use another directory, or the "
                "same settings"
            )

    def _later(self, step: int) -> list[int]:
        """The later steps that a save after a restore of an earlier one replaces."""
        steps = list(checkpoint_folders(self.directory))
        if self._at is None:
            if steps and steps[-1] >= step:
                raise CheckpointError(
                    f"{self.directory} already holds step {steps[-1]}, and step {step} is not after it: restore "
                    "first, or use another directory"
                )
            return []
        if step < self._at:
            raise CheckpointError(f"step {step} is before step {self._at}, the last one that was saved or restored")
        return [number for number in steps if number > self._at and number != step]

    def _readable(self) -> tuple[list[Checkpoint], list[str]]:
        """The checkpoints with a readable manifest, and what is wrong with the others."""
        readable, damaged = [], []
        for path in checkpoint_folders(self.directory).values():
            try:
                manifest = read_manifest(path)
                readable.append(Checkpoint(manifest.step, manifest.score, path))
            except CorruptError as error:
                damaged.append(str(error))
        return readable, damaged

    def _by_score(self) -> list[Checkpoint]:
        scored = [one for one in self.checkpoints if one.score is not None and not math.isnan(one.score)]
        return sorted(scored, key=lambda one: (one.score or 0.0) * (1 if self.lower_is_better else -1))

    def _remove_old(self, later: list[int]) -> None:
        found = checkpoint_folders(self.directory)
        kept = [step for step in found if step not in later][-self.keep :]
        best = next((one.step for one in self._by_score() if one.step not in later), None)
        for step, path in found.items():
            if step in kept or step == best:
                continue
            try:
                remove_checkpoint(path)
            except CheckpointError as error:
                # The new one is in place, so the run continues; the next save tries again.
                logger.warning("%s", error)


def _recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as JSON returns them, with lists in place of tuples."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    recipe: dict[str, Any] = plain(given)
    encoded = codec.encode(recipe, "the recipe")
    if encoded.tensors or encoded.arrays:
        raise CheckpointError(f"the recipe's {next(iter({**encoded.tensors, **encoded.arrays}))!r} is not plain JSON")
    return recipe


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        raise CheckpointError(f"{path} does not fit the run, and nothing was changed: {'; '.join(problems)}")

"""Making each sub-network of a space run: what the model's forward fails at follows the widths, or they stay whole.

A forward may hold a width: `reshape([n, 512])` a number in its code, `reshape([n, self.channels])` one of its layer. A
number of a layer can follow the axis whose width it is, and axes that only fit in proportion can shrink as one. Such a
change is found where the forward fails, by its trace, and kept where the sub-network then computes what the whole model
does with the cut channels silenced. What cannot be mended keeps its full width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import numpy as np
from paddle import nn

from ofa_slim.base.examples import Example
from ofa_slim.errors import ConvertError
from ofa_slim.supernet.axis import WIDTH, Axis
from ofa_slim.supernet.discover import grown_roles, without
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.layers import follow, own
from ofa_slim.supernet.mending.following import (
    axes_under,
    changed_axes,
    counts_of,
    elastic_owners,
    forget_unused,
    is_like_heads,
    joined,
    proposals,
)
from ofa_slim.supernet.mending.running import Failure, Probe, smallest_tried
from ofa_slim.supernet.mending.silenced import computes_the_same
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.subnet_config import SubnetConfig

logger = logging.getLogger(__name__)

_MIXED = 3  # so many random sub-networks run beside the smallest
_NEAR = 2  # the innermost layers at a failure; the widths that meet there are those of layers in them
_UNPROVEN = "a sub-network would not compute what the whole model does with the cut channels silenced"


def without_failing_axes(model: nn.Layer, space: SearchSpace, example: Example) -> SearchSpace:
    """The space with every axis whole at whose smaller sizes the model's forward fails, and numbers that follow.

    The smallest sub-network and random ones run, in eval mode and, where the whole model runs with the example in
    train mode, in that too.

    Args:
        model: the supernet, unwrapped; layers of the user's own whose numbers follow an axis become elastic.
        space: its space.
        example: inputs to run it with.

    Raises: ConvertError where choices made layers larger and the model no longer runs at its own size.
    """
    grown = bool(grown_roles(model))
    supernet = Supernet(model, space)
    if grown:
        _check_original(supernet, example)
    for training in (False, True):
        if training and Probe(supernet, example, True).failure(supernet.space.largest()) is not None:
            continue
        # What runs in train mode draws random numbers, so it cannot be compared with a silenced model.
        supernet = _Mending(supernet, example, training, may_follow=not grown and not training).run()
    forget_unused(model, supernet.space)
    return supernet.space


def _check_original(supernet: Supernet, example: Example) -> None:
    """Raises ConvertError where a model that was made larger fails at the size that it had."""
    failure = Probe(supernet, example).failure(supernet.space.original())
    if failure is not None:
        raise ConvertError(
            f"the choices made layers larger ({next(iter(grown_roles(supernet.model)))!r} is the first), which the "
            f"forward of {type(supernet.model).__name__} does not allow: at its own size it fails with "
            f"{failure.error}; ratios up to 1 do not change them"
        )


class _Mending:
    """Runs sub-networks of a space in one mode, and changes the space until all of them run."""

    def __init__(self, supernet: Supernet, example: Example, training: bool, may_follow: bool) -> None:
        self.example, self.training, self.may_follow = example, training, may_follow
        self.use(supernet)
        self.unproven: set[str] = set()

    def use(self, supernet: Supernet) -> None:
        self.supernet = supernet
        self.probe = Probe(supernet, self.example, self.training)

    def run(self) -> Supernet:
        """The supernet of the changed space."""
        failed: dict[str, str] = {}
        while True:
            found = self._first_failure()
            if found is None:
                break
            sizes, failure = found
            before = self.supernet.space
            mended = self._mended(sizes, failure) if self.may_follow else None
            if mended is not None:
                self.unproven |= changed_axes(before, mended.space)
                self.use(mended)
                continue
            culprits = self._culprits([axis.name for axis in self._elastic()], sizes, failure)
            failed |= dict.fromkeys(culprits, failure.error)
            self._keep_whole(culprits, f"at a smaller width the forward fails: {failure.error}")
        if self.may_follow:
            self._count_heads()
            self._prove()
        if failed:
            logger.warning(
                "stay at full width, because the model's forward fails at a smaller one: %s (%s)",
                ", ".join(failed),
                next(iter(failed.values())),
            )
        return self.supernet

    def _elastic(self) -> list[Axis]:
        return [axis for axis in self.supernet.space.axes if axis.task == WIDTH and axis.elastic]

    def _first_failure(self) -> tuple[dict[str, int], Failure] | None:
        """The sizes and the failure of the first sub-network that does not run."""
        for sizes in self._tried():
            failure = self.probe.failure(self.probe.shrunk(sizes))
            if failure is not None:
                return sizes, failure
        return None

    def _tried(self) -> list[dict[str, int]]:
        axes, rng = self._elastic(), np.random.default_rng(0)
        if not axes:
            return []
        smallest = {axis.name: smallest_tried(axis) for axis in axes}
        choices = {axis.name: [smallest[axis.name], *axis.choices] for axis in axes}
        mixed = [{name: int(rng.choice(sizes)) for name, sizes in choices.items()} for _ in range(_MIXED)]
        return [smallest, *mixed]

    def _uneven(self) -> SubnetConfig:
        """A config in which axes of one size have different ones, where they have choices outside their own."""
        rng = np.random.default_rng(1)
        left: dict[int, list[int]] = {}
        sizes = {}
        for axis in self._elastic():
            pool = left.get(axis.size) or left.setdefault(axis.size, list(rng.permutation(np.arange(1, axis.size))))
            sizes[axis.name] = int(pool.pop()) if pool else smallest_tried(axis)
        return self.probe.shrunk(sizes)

    def _mended(self, sizes: dict[str, int], failure: Failure) -> Supernet | None:
        """The supernet with a change by which the forward comes further at some sizes; None without one."""
        space = self.supernet.space
        uneven = self.probe.failure(self._uneven())
        found = self._best(space, sizes, failure, uneven)
        if found is not None:
            return found
        proportional = joined(space, self._wrong_alone(failure))
        if proportional is None:
            return None
        before = self.supernet
        self.use(Supernet(before.model, proportional, before.names))
        sizes = {axis.name: smallest_tried(axis) for axis in self._elastic()}
        found = self._best(proportional, sizes, failure, None)
        if found is None and self._is_better(sizes, failure, changed_axes(space, proportional)):
            found = self.supernet
        self.use(before)
        return found

    def _is_better(self, sizes: dict[str, int], failure: Failure, changed: Collection[str]) -> bool:
        """Whether the forward comes further at some sizes than it did, and computes the same as far as it comes.

        The latter is asked with the changed axes alone at a smaller size, which must come further too: with others, an
        axis may fit by chance.
        """
        smaller = {axis.name: smallest_tried(axis) for axis in self._elastic() if axis.name in changed}
        alone = self.probe.shrunk(smaller)
        return (
            failure.before(self.probe.failure(self.probe.shrunk(sizes)))
            and failure.before(self.probe.failure(alone))
            and computes_the_same(self.probe, alone)
        )

    def _count_heads(self) -> None:
        """Lets the number of heads follow them where the forward runs without, as other heads than the model has."""
        for axis in self._elastic():
            if axis.name in self.unproven or not is_like_heads(axis):
                continue
            sizes = {axis.name: smallest_tried(axis)}
            if computes_the_same(self.probe, self.probe.shrunk(sizes)):
                continue
            before = self.supernet
            for proposed in counts_of(before.model, before.space, axis):
                self.use(self._following(proposed))
                config = self.probe.shrunk(sizes)
                if self.probe.failure(config) is None and computes_the_same(self.probe, config):
                    self.unproven.add(axis.name)
                    break
                self.use(before)

    def _following(self, proposed: SearchSpace) -> Supernet:
        """The supernet with a space whose numbers are made roles of their layers."""
        model = self.supernet.model
        for layer, role in elastic_owners(model, proposed):
            own(layer, [])
            if role not in layer.max_sizes:
                follow(layer, role)
        return Supernet(model, proposed, self.supernet.names)

    def _best(
        self, space: SearchSpace, sizes: dict[str, int], failure: Failure, uneven: Failure | None
    ) -> Supernet | None:
        """The first proposal by which the forward comes further, at uneven sizes too where those failed there."""
        for proposed in proposals(self.supernet.model, space, failure):
            before, supernet = self.supernet, self._following(proposed)
            self.use(supernet)
            good = self._is_better(sizes, failure, changed_axes(space, proposed))
            if good and failure.same_place(uneven):
                good = failure.before(self.probe.failure(self._uneven()))
            self.use(before)
            if good:
                return supernet
        return None

    def _culprits(self, names: Sequence[str], sizes: dict[str, int], failure: Failure) -> list[str]:
        """Those of some axes whose smaller sizes make the forward fail at one place."""

        def fails(some: Sequence[str]) -> bool:
            found = self.probe.failure(self.probe.shrunk({name: sizes[name] for name in some if name in sizes}))
            return found is not None and (found.error == failure.error or failure.same_place(found))

        return _responsible(names, fails) or list(names)

    def _wrong_alone(self, failure: Failure) -> list[str]:
        """The axes that may only fit in proportion: each alone makes the forward fail at a place, or go wrong near it.

        A reshape with one size left open can turn rows into something else without failing.
        """
        space = self.supernet.space
        paths = list(dict.fromkeys(frame.path for frame in failure.frames))[:_NEAR]
        near = {name for path in paths for name in axes_under(space, path)}
        smaller = {axis.name: {axis.name: smallest_tried(axis)} for axis in self._elastic() if axis.name in near}
        here = [
            name for name, sizes in smaller.items() if failure.same_place(self.probe.failure(self.probe.shrunk(sizes)))
        ]
        if len(here) > 1:
            return here
        inner = next((names for path in paths if len(names := axes_under(space, path) & set(smaller)) > 1), set())
        configs = {name: self.probe.shrunk(smaller[name]) for name in smaller if name in inner}
        return [
            name
            for name, config in configs.items()
            if self.probe.failure(config) is not None or not computes_the_same(self.probe, config)
        ]

    def _keep_whole(self, names: Collection[str], reason: str) -> None:
        space = without(self.supernet.space, dict.fromkeys(names, reason))
        self.use(Supernet(self.supernet.model, space, self.supernet.names))

    def _prove(self) -> None:
        """Keeps the changed axes that a sub-network shrinks with which it computes something else."""
        names = [axis.name for axis in self._elastic() if axis.name in self.unproven]
        if not names:
            return
        smallest = {axis.name: smallest_tried(axis) for axis in self._elastic() if axis.name in names}

        def differs(some: Sequence[str]) -> bool:
            return not computes_the_same(self.probe, self.probe.shrunk({name: smallest[name] for name in some}))

        wrong = _responsible(names, differs)
        if wrong:
            logger.warning("stay at full width: %s (%s)", ", ".join(wrong), _UNPROVEN)
            self._keep_whole(wrong, _UNPROVEN)


def _responsible(names: Sequence[str], wrong: Callable[[Sequence[str]], bool]) -> list[str]:
    """Those of some axes that are wrong together, found by halving; all of a set of which no half is wrong alone."""
    if not names or not wrong(names):
        return []
    if len(names) == 1:
        return list(names)
    middle = len(names) // 2
    return [*_responsible(names[:middle], wrong), *_responsible(names[middle:], wrong)] or list(names)

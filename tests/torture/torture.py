"""`make torture`: random hostile models through conversion, training, export and files, checked against each other.

Each case either holds in every check, or is refused by an error of the library that names a part of the model.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec
from tqdm import tqdm

from hostile_models import Batch, Case, case_of
from ofa_slim import OFA, Convert, OfaSlimError, SubnetConfig, load_subnet, save_subnet, supernet, to_static
from ofa_slim.base.nested import tensors_in
from ofa_slim.errors import ConvertError, ExportError
from ofa_slim.supernet.layers import ElasticLayer, kept_layers
from ofa_slim.supernet.layers.owner import held
from ofa_slim.supernet.paths import layer_at
from ofa_slim.supernet.spec import entries_of, spec_of

CLOSE = {"float64": 1e-8, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
STATIC_SHARE = 0.03  # of the cases; a translation takes seconds
NOT_REBUILT = {
    "hooks",
    "subclassed layer",
    "weight norm",
    "shared layer",
    "block twice",
}  # what a class and its config do not say


class Mismatch(AssertionError):
    """Two things that must agree do not."""


def outputs(model: nn.Layer, batch: Batch) -> list[paddle.Tensor]:
    with paddle.no_grad():
        return [one for one in tensors_in(model(**batch)) if one.is_floating_point()]


def agree(found: Sequence[paddle.Tensor], expected: Sequence[paddle.Tensor], close: float | None = None) -> None:
    """Raises `Mismatch` unless all differences are within a share of the largest number."""
    if [one.shape for one in found] != [one.shape for one in expected]:
        raise Mismatch(f"shapes {[one.shape for one in found]}, expected {[one.shape for one in expected]}")
    for one, other in zip(found, expected, strict=True):
        if one.dtype != other.dtype:
            raise Mismatch(f"dtype {one.dtype}, expected {other.dtype}")
        limit = CLOSE[str(other.dtype).removeprefix("paddle.")] if close is None else close
        a, b = (value.astype("float64").numpy() for value in (one, other))
        limit *= max(1.0, np.abs(b[np.isfinite(b)]).max(initial=0.0))
        if not np.allclose(a, b, rtol=0.0, atol=limit, equal_nan=True):
            raise Mismatch(f"differ by {np.nanmax(np.abs(a - b)):.3g}, more than {limit:.3g}")


def objective(answer: Any) -> paddle.Tensor:
    return paddle.add_n([(one.astype("float32") ** 2).sum() for one in tensors_in(answer) if one.is_floating_point()])


def gradients(model: nn.Layer) -> dict[str, paddle.Tensor]:
    """The gradients by the parameter's name; the model has none after it."""
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.clear_gradients()
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    return found


def trains(case: Case) -> bool:
    """Whether Paddle itself can train the original."""
    model = case.build()
    model.train()
    try:
        objective(model(**case.batch)).backward()
    except Exception:
        return False
    return True


def random_config(ofa: OFA, rng: np.random.Generator) -> SubnetConfig:
    """A legal config; half of them have sizes beyond the choices."""
    space = ofa.search_space
    if rng.random() < 0.5:
        return space.sample(rng)
    return space.complete(
        {axis.name: int(rng.integers(axis.least, axis.size + 1)) for axis in space.axes if not axis.fixed_reason}
    )


def used_entries(ofa: OFA, configs: Sequence[SubnetConfig]) -> dict[int, np.ndarray]:
    """For each parameter that axes cut, by its id, which entries some of the sub-networks use."""
    model, space = ofa.model, ofa.search_space
    used: dict[int, np.ndarray] = {}
    for config in configs:
        sizes, dropped = space.layer_sizes(config), set()
        for path, roles in sizes.items():
            if "depth" in roles and isinstance(layer_at(model, path), nn.LayerList):
                depth = max(axis.size for axis in space.axes if any(slot.layer == path for slot in axis.slots))
                kept = kept_layers(int(roles["depth"]), depth)
                dropped |= {f"{path}.{block}." for block in range(depth) if block not in kept}
        extents_of = {id(layer_at(model, path)): roles for path, roles in sizes.items()}
        # `named_sublayers` names a layer that is at several places once; a state dict names each place.
        for path in sorted({key.rpartition(".")[0] for key in model.state_dict()}):
            layer = layer_at(model, path)
            spec = spec_of(layer)
            if spec is None or not isinstance(layer, ElasticLayer):
                continue
            for name in spec.params:
                parameter = held(layer, name)
                if parameter is None:
                    continue
                mask = used.setdefault(id(parameter), np.zeros(parameter.shape, bool))
                if any(path.startswith(prefix) for prefix in dropped):
                    continue
                roles = spec.roles(layer, name)
                extents = {} if getattr(layer, "transforms", ()) else extents_of.get(id(layer), {})
                taken = [
                    entries_of(extents[role]) if role in extents else range(size)
                    for role, size in zip(roles, parameter.shape, strict=True)
                ]
                mask[np.ix_(*taken)] = True
    return used


def check(case: Case, rng: np.random.Generator, folder: Path) -> Iterator[str]:
    """Runs a case; yields the name of each check that held.

    Raises: Mismatch where one does not hold; OfaSlimError where the library refuses; whatever else goes wrong.
    """
    model, batch = case.build(), case.batch
    expected = outputs(model, batch)
    names = [id(parameter) for parameter in model.parameters()]
    try:
        Convert(supernet(**case.choices)).convert(model)
    except OfaSlimError:
        agree(outputs(model, batch), expected)
        raise
    try:
        ofa = OFA(model, example_inputs=case.example)
    except ConvertError as error:
        if "cannot be traced" in str(error) and "grown" not in case.traits:
            raise Mismatch(f"refused though its forward can be traced: {error}") from error
        raise
    ofa.eval()
    if "grown" not in case.traits and "kernel sizes" not in case.traits:
        agree([paddle.to_tensor(names)], [paddle.to_tensor([id(one) for one in model.parameters()])], 0.0)
    with ofa.subnet(ofa.search_space.original()):
        agree(outputs(model, batch), expected)
    yield "original size"
    configs = [random_config(ofa, rng) for _ in range(int(rng.integers(1, 4)))]
    config = configs[0]
    plain = ofa.export(config=config, input_shapes=[case.example])
    plain.eval()
    with ofa.subnet(config):
        expected = outputs(model, batch)
    agree(outputs(plain, batch), expected)
    yield "export"
    if trains(case):
        ofa.train()
        ofa.train_step(batch, objective, configs)
        together = gradients(model)
        for one in configs:
            ofa.set_net_config(one)
            objective(ofa(**batch)).backward()
        alone = gradients(model)
        if list(together) != list(alone):
            raise Mismatch(f"gradients of {set(together) ^ set(alone)} are in one of two")
        close = 10 * max(CLOSE[str(one.dtype).removeprefix("paddle.")] for one in model.parameters())
        for name in alone:
            try:
                agree([together[name]], [alone[name]], close)
            except Mismatch as error:
                raise Mismatch(f"gradient of {name}: {error}") from None
        yield "gradients"
        used = used_entries(ofa, configs)
        for name, parameter in model.named_parameters():
            if name in alone and id(parameter) in used:
                outside = alone[name].astype("float32").numpy()[~used[id(parameter)]]
                if np.any(outside != 0):
                    raise Mismatch(f"gradient of {name} outside the slices: {np.abs(outside).max():.3g}")
        yield "zero outside"
        ofa.eval()
    try:
        save_subnet(plain, folder / "saved", case.example)
        loaded = load_subnet(folder / "saved", model=case.build())
    except OfaSlimError as error:
        if NOT_REBUILT.isdisjoint(case.traits):
            raise Mismatch(f"a saved export is refused: {error}") from error
    else:
        agree(outputs(loaded, batch), outputs(plain, batch))
        yield "reloaded"
    if rng.random() < STATIC_SHARE and str(next(iter(model.parameters())).dtype) == "paddle.float32":
        specs = [InputSpec([None, *one.shape[1:]], one.dtype, name=name) for name, one in case.example.items()]
        try:
            to_static(plain, folder / "static", specs, case.example)
        except ExportError:
            if is_right_as_a_program(case, specs, folder / "original"):
                raise
            yield "refused, as Paddle Inference computes the original wrongly too"
        else:
            yield "static"


def is_right_as_a_program(case: Case, specs: Sequence[InputSpec], path: Path) -> bool:
    """Whether Paddle Inference computes what the original computes."""
    try:
        to_static(case.build(), path, specs, case.example)
    except ExportError:
        return False
    return True


def unnamed(error: OfaSlimError, case: Case) -> bool:
    """Whether the message names no part of the model and nothing that was given."""
    model = case.build()
    parts = [type(model).__name__, *case.choices, *(path for path, _ in model.named_sublayers())]
    return not any(part in str(error) for part in parts)


def run(seed: int, number: int, tally: dict[str, Counter[str]]) -> str:
    """Runs a case and counts it; returns what failed, or ""."""
    paddle.seed(number)
    case = case_of(seed, number)
    tally["kinds"][case.kind] += 1
    tally["traits"].update(case.traits or ["none"])
    title = f"case {number} ({case.kind}; {', '.join(case.traits) or 'no trait'})"
    try:
        outputs(case.build(), case.batch)
    except Exception as error:  # whatever Paddle or the model raises
        tally["outcomes"][f"Paddle cannot run the original ({type(error).__name__})"] += 1
        return ""
    try:
        with tempfile.TemporaryDirectory() as folder:
            for held in check(case, np.random.default_rng([seed, number, 1]), Path(folder)):
                tally["checks"][held] += 1
    except OfaSlimError as error:
        if "differ" not in str(error) and not unnamed(error, case):
            tally["outcomes"][f"refused: {type(error).__name__}"] += 1
            tally["refusals"][str(error).splitlines()[0][:110]] += 1
            return ""
        tally["outcomes"]["failed"] += 1
        return f"{title}: {type(error).__name__}: {error}"
    except Exception as error:  # what the library should have refused
        tally["outcomes"]["failed"] += 1
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "----" not in line]
        return f"{title}: {type(error).__name__}: {' '.join(lines)[:300]}"
    tally["outcomes"]["all checks held"] += 1
    return ""


@contextmanager
def quiet() -> Iterator[None]:
    """Neither warnings nor the library's messages below errors inside the block."""
    log = logging.getLogger("ofa_slim")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


def torture(seed: int, numbers: Sequence[int], minutes: float = 0.0, show: bool = True) -> tuple[list[str], str]:
    """Runs cases; returns what failed, and counts as text."""
    tally: dict[str, Counter[str]] = {name: Counter() for name in ("kinds", "traits", "checks", "refusals", "outcomes")}
    failures: list[str] = []
    end = time.monotonic() + 60 * minutes
    bar = tqdm(numbers, unit="case", disable=not show, mininterval=2.0)
    with quiet():
        for number in bar:
            if minutes and time.monotonic() > end:
                break
            failure = run(seed, number, tally)
            if failure:
                failures.append(failure)
                tqdm.write(f'{failure}\n  alone: make torture ARGS="--seed {seed} --only {number}"', file=sys.stdout)
    rows = (
        f"{name}:\n" + "\n".join(f"  {count:5d}  {what}" for what, count in counts.most_common())
        for name, counts in tally.items()
        if counts
    )
    return failures, "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so many; 0: no limit")
    parser.add_argument("--only", type=int, help="the number of one case")
    given = parser.parse_args()
    numbers = range(given.cases) if given.only is None else [given.only]
    failures, counts = torture(given.seed, numbers, given.minutes)
    print(f"seed {given.seed}\n{counts}\n{len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

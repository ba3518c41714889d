"""Scripts for the published API run here with only the import changed, in processes of their own."""

from __future__ import annotations

import functools
import importlib.util
import json
import tempfile
from pathlib import Path

import pytest

import published_samples
from forked import run

# What goes by full names, which count from the start of a process, comes first in one.
PROCESSES = (
    ("sub_networks_by_full_name",),
    ("widths_of_named_layers", "distillation_of_mapped_layers", "progressive_shrinking"),
    (
        "elastic_layers_by_their_own_names",
        "conv2d",
        "conv2d_transpose_of_a_narrower_input",
        "grouped_and_depthwise_convolutions",
        "separable_convolution",
        "linear",
        "embedding",
        "norms",
        "block",
        "block_with_a_misspelt_key",
        "whole_model",
        "part_of_a_model",
        "by_hand",
        "a_list_is_no_layer",
        "configs_of_the_tutorial",
        "a_whole_training_of_a_bert",
    ),
)


@functools.cache
def outcomes(names: tuple[str, ...]) -> dict[str, str | None]:
    """What each sample of one process raised; a sample that ended the process is not there."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcomes"
        run(published_samples.main, names, file)
        return dict(json.loads(line) for line in file.read_text().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "process"), [pytest.param(name, process, id=name) for process in PROCESSES for name in process]
)
def test_a_published_sample_runs(name: str, process: tuple[str, ...]) -> None:
    if name.endswith("of_a_bert"):
        importlib.util.find_spec("paddlenlp")  # skips the test where it is to do without
    found = outcomes(process)
    assert name in found, "the process ended before"
    assert found[name] is None, found[name]

"""Copies of rows with tokens changed: what changes, what stays, and what cannot be asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_slim.errors import ConfigError
from ofa_slim.train.augment import augmented
from ofa_slim.train.batches import Batches, Examples, apart

CLS, SEP, MASK = 1, 2, 3


def rows_of(lengths: list[int], labels: np.ndarray | None = None) -> Examples:
    rng = np.random.default_rng(0)
    tokens = [np.array([CLS, *rng.integers(10, 50, length), SEP]) for length in lengths]
    kinds = [np.arange(len(row)) for row in tokens]
    return Examples(
        {"input_ids": tokens, "token_type_ids": kinds},
        np.arange(len(lengths)) if labels is None else labels,
        {"input_ids": 7},
    )


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 3), st.booleans())
def test_copies_follow_the_rows_and_change_only_tokens_that_may(lengths: list[int], copies: int, masks: bool) -> None:
    rows, mask = rows_of(lengths), MASK if masks else None
    found = augmented(rows, copies, np.random.default_rng(1), share=0.5, special=[CLS, SEP], mask=mask)
    assert len(found) == len(lengths) * (copies + 1)
    assert found.padding == rows.padding
    words = {int(token) for row in rows.inputs["input_ids"] for token in row[1:-1]}
    for number, row in enumerate(found.inputs["input_ids"]):
        before = rows.inputs["input_ids"][number % len(lengths)]
        assert len(row) == len(before)
        assert (row[0], row[-1]) == (CLS, SEP)
        assert {int(token) for token in row[1:-1]} <= words | ({MASK} if masks else set())
        if number < len(lengths):
            assert row is before
        assert found.inputs["token_type_ids"][number] is rows.inputs["token_type_ids"][number % len(lengths)]
        assert found.labels[number] == number % len(lengths)


def test_the_share_is_kept_to_and_half_of_it_is_masked() -> None:
    rows = rows_of([400] * 20)
    found = augmented(rows, 2, np.random.default_rng(0), share=0.2, special=[CLS, SEP], mask=MASK)
    before, after = (np.stack(of.inputs["input_ids"][-20:])[:, 1:-1] for of in (rows, found))
    assert (after == MASK).mean() == pytest.approx(0.1, abs=0.01)
    # One word in forty takes its own place again.
    assert (after != before).mean() == pytest.approx(0.2, abs=0.015)
    first = np.stack(found.inputs["input_ids"][20:40])[:, 1:-1]
    assert (first != after).mean() > 0.2, "each copy is another"
    again = augmented(rows, 2, np.random.default_rng(0), share=0.2, special=[CLS, SEP], mask=MASK)
    assert all(
        (one == other).all() for one, other in zip(found.inputs["input_ids"], again.inputs["input_ids"], strict=True)
    )


def test_rows_with_a_label_for_each_token_make_batches() -> None:
    rows = rows_of([3, 5], apart([np.arange(5), np.arange(7)]))
    (batch,) = Batches(augmented(rows, 1, np.random.default_rng(0), special=[CLS, SEP], mask=MASK), 4)
    assert batch["labels"].shape == [4, 7]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"copies": -1}, "copies is -1, not a whole number"),
        ({"copies": True}, "copies is True"),
        ({"share": 0.0}, "share is 0.0, not a number above 0 and below 1"),
        ({"share": float("nan")}, "share is nan"),
    ],
)
def test_numbers_that_cannot_be_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        augmented(rows_of([2]), **{"copies": 1, "rng": np.random.default_rng(0), **values})

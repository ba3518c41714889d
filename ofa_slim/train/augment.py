"""Further rows for small training sets, which a teacher labels: copies with some tokens masked or replaced."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ofa_slim.base.checks import check_whole
from ofa_slim.errors import ConfigError
from ofa_slim.train.batches import Examples, apart

TOKENS = "input_ids"


def augmented(
    examples: Examples,
    copies: int,
    rng: np.random.Generator,
    *,
    share: float = 0.2,
    special: Collection[int] = (),
    mask: int | None = None,
) -> Examples:
    """Some rows, and after them copies in which each token but the special ones was changed with a chance of `share`.

    Half of the changed tokens are masked; the others become one that stands at a random place of a random row. What
    belongs to a row keeps its place, its labels too, which no longer need to be right: they are for training by a
    teacher, which answers the changed rows. DynaBERT does likewise with the words that another model proposes.

    Args:
        examples: the rows; they stay as they are.
        copies: of each row.
        rng: draws which tokens change, and to what.
        share: of the tokens.
        special: ids of tokens that stay, and that none becomes.
        mask: the id of the masked token; None: all changed tokens become others.

    Returns: `copies` + 1 times as many rows.

    Raises: ConfigError for a number that cannot be.

    Source: Hou et al. 2020, arXiv:2004.04037, section 3.2.
    """
    check_whole(copies, "copies", 0, ConfigError)
    if not 0 < share < 1:
        raise ConfigError(f"share is {share!r}, not a number above 0 and below 1")
    rows = examples.inputs[TOKENS]
    tokens = np.concatenate([np.asarray(row) for row in rows]) if len(rows) else np.empty(0, np.int64)
    free = ~np.isin(tokens, list(special))
    ends = np.cumsum([len(row) for row in rows])[:-1]
    found = list(rows)
    for _ in range(copies):
        changed = free & (rng.random(len(tokens)) < share)
        new = np.where(changed, rng.choice(tokens[free], len(tokens)) if free.any() else tokens, tokens)
        if mask is not None:
            new = np.where(changed & (rng.random(len(tokens)) < 0.5), mask, new)
        found += np.split(new, ends)
    inputs = {name: list(values) * (copies + 1) for name, values in examples.inputs.items()}
    labels = examples.labels
    many = apart([*labels] * (copies + 1)) if labels.dtype == object else np.concatenate([labels] * (copies + 1))
    return Examples({**inputs, TOKENS: found}, many, examples.padding)

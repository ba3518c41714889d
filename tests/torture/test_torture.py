"""The short form of `make torture`: always the same cases."""

from __future__ import annotations

import pytest

from torture import torture

SEED, CASES = 0, 60


@pytest.mark.slow
def test_hostile_models_hold_every_check_or_are_refused_by_name() -> None:
    failures, counts = torture(SEED, range(CASES), show=False)
    assert not failures, "\n".join(failures)
    for check in ("original size", "export", "gradients", "zero outside", "reloaded", "static"):
        assert check in counts

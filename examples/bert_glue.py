"""Compresses a BERT for a GLUE task or movie-review polarity: from a pre-trained model to exported ones.

    python examples/bert_glue.py examples/recipes/movie-reviews.yaml

It is the command ``ofa-slim compress``, with the same options, as a script that several processes can be launched with:

    python -m paddle.distributed.launch --nproc_per_node 2 examples/bert_glue.py RECIPE   (CPUs: --backend gloo)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ofa_slim.cli import main as ofa_slim


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the recipe; returns the exit status."""
    return ofa_slim(["compress", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    status = main()
    from ofa_slim import parallel  # not before: the command line imports Paddle without its warnings

    parallel.leave(status)

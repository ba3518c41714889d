"""Shrinks a small CNN over kernel size, depth and width on scikit-learn's digits: 1,797 images of 8 × 8 pixels.

    python examples/cnn_digits.py --output_dir runs/digits

The protocol, for every seed:

1. A residual CNN is trained for `--teacher_epochs`. A copy of it is the teacher from then on.
2. It becomes a supernet and is trained for `--epochs` by progressive shrinking: kernels, then depth, then width. Each
   step adds up the gradients of some sub-networks on one batch and moves the weights once: the whole network
   (once all choices are offered, the four corners below) and `--samples` drawn at random.
3. The four corners of the search space are scored: wide or narrow, and deep with large kernels or shallow with small
   ones. Batch norms are recalibrated on the training images for each, in the supernet and in the exported model.
4. The same four architectures are trained alone, from scratch, for as many optimizer steps as 1 and 2 took together,
   on labels, with the same batch size, random shifts, optimizer and learning rate.

A third of the images, drawn once and stratified, is the test set; nothing trains or is recalibrated on it. The default
settings were chosen on another split, on which networks alone also did best with this learning rate.
One thread is enough: these convolutions are too small to share (`OMP_NUM_THREADS=1`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from digits.data import DataError, load_digits
from digits.report import table, write_report
from digits.training import DivergedError, Settings, run_seed
from ofa_slim import OfaSlimError

HELP = {
    "teacher_epochs": "epochs of the model that becomes teacher and supernet",
    "epochs": "epochs of the supernet",
    "batch_size": "images per step",
    "learning_rate": "the highest of every training; it rises over an epoch, then falls to 0 as a cosine",
    "width": "channels of the wide networks' first stage, a multiple of 4",
    "samples": "sub-networks per step that are drawn at random, beside the corners",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs every seed and writes the report; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    defaults = Settings()
    parser.add_argument("--output_dir", default="runs/digits", help="where the report goes (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    for name, text in HELP.items():
        default = getattr(defaults, name)
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--images", type=int, help="use only so many training images, to try things out")
    options = parser.parse_args(arguments)
    try:
        if len(set(options.seeds)) != len(options.seeds):
            raise ValueError(f"--seeds {options.seeds}: a seed is there twice")
        settings = Settings(**{name: getattr(options, name) for name in HELP})
        digits = load_digits(options.images)
        settings.check(len(digits.labels))
        folder = Path(options.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        runs = [run_seed(seed, digits, settings) for seed in tqdm(options.seeds, desc="seeds", disable=None)]
        write_report(folder, runs, settings)
        print(table(runs))
    except (DataError, DivergedError, OfaSlimError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

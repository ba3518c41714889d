"""The digits of scikit-learn, split once, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import paddle

CLASSES = 10
TEST_SHARE = 1 / 3


class DataError(Exception):
    """Digits that cannot be had."""


@dataclass
class Digits:
    """Images float32 [n, 1, 8, 8] between 0 and 1 and labels int64 [n], to train on and to test on."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits(count: int | None = None, split: int = 0) -> Digits:
    """The digits in a stratified split.

    Args:
        count: how many training images to use; None: all 1,198.
        split: seed of the split.

    Raises: DataError where scikit-learn is missing, or `count` is more than there are.
    """
    try:
        from sklearn import datasets
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise DataError(
            "this example needs scikit-learn, which the extra 'demo' brings: pip install -e '.[demo]'"
        ) from error
    digits = datasets.load_digits()
    images = (digits.images[:, None] / 16).astype("float32")
    train, test = train_test_split(
        np.arange(len(images)), test_size=TEST_SHARE, stratify=digits.target, random_state=split
    )
    if count is not None and not 1 <= count <= len(train):
        raise DataError(f"--images {count} is not between 1 and {len(train)}, the number of training images")
    labels = digits.target.astype("int64")
    return Digits(images[train[:count]], labels[train[:count]], images[test], labels[test])


def batches(digits: Digits, size: int, rng: np.random.Generator) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
    """One epoch of shuffled batches, each image shifted by up to a pixel; what fills no batch is left out."""
    order = rng.permutation(len(digits.labels))
    for start in range(0, len(order) - size + 1, size):
        rows = order[start : start + size]
        yield paddle.to_tensor(shifted(digits.images[rows], rng)), paddle.to_tensor(digits.labels[rows])


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every image moved by -1, 0 or 1 pixels in both directions, zeros moving in."""
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    corners = rng.integers(0, 3, (len(images), 2))
    return np.stack([padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(corners)])

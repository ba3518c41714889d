"""The arithmetic of elastic kernels: which sizes a convolution can have, and the padding of each.

A smaller kernel is the centre of the full one. What it leaves out on a side is taken off the padding of that
side, so that the output keeps its spatial size and its positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddle import nn

from ofa_slim.errors import IllegalSubnetError
from ofa_slim.supernet.spec import Extent, as_extent, length, ranges_of

TRANSPOSED = (nn.Conv1DTranspose, nn.Conv2DTranspose, nn.Conv3DTranspose)


def has_kernel(layer: nn.Layer) -> bool:
    """Whether a layer is a convolution."""
    return isinstance(layer, (nn.Conv1D, nn.Conv2D, nn.Conv3D, *TRANSPOSED))


def is_square(conv: nn.Layer) -> bool:
    """Whether all sides of a convolution's kernel are equal, which an elastic one needs."""
    return len(set(conv._kernel_size)) == 1


def centre(size: int, full: int) -> Extent:
    """The extent of the middle `size` of `full` entries; an odd rest leaves out one more at the end."""
    start = (full - size) // 2
    return as_extent([(start, start + size)])


def padding_of(conv: nn.Layer) -> list[tuple[int, int]] | None:
    """The padding of a convolution, ``(before, after)`` per spatial dimension; None for "SAME"."""
    padding, dims = conv._padding, len(conv._kernel_size)
    if isinstance(padding, str):
        return [(0, 0)] * dims if padding.upper() == "VALID" else None
    if isinstance(padding, int):
        return [(padding, padding)] * dims
    if not isinstance(padding[0], int):  # pairs for every dimension, including batch and channels
        spatial = padding[1:-1] if conv._data_format.endswith("C") else padding[2:]
        return [(before, after) for before, after in spatial]
    if len(padding) == dims:
        return [(side, side) for side in padding]
    return list(zip(padding[0::2], padding[1::2], strict=True))


def padding_at(conv: nn.Layer, kernel: Extent) -> list[tuple[int, int]] | None:
    """The padding of a convolution with a part of its kernel, as `padding_of`.

    Raises: IllegalSubnetError where its padding is too small for the spatial size of the output to stay.
    """
    padding = padding_of(conv)
    if length(kernel) == conv._kernel_size[0]:
        return padding
    if not fits(conv, kernel):
        raise IllegalSubnetError(
            f"{conv.full_name()}: with kernel size {length(kernel)} instead of {conv._kernel_size[0]} the output would "
            f"have another size; padding {conv._padding!r} is too small for it"
        )
    return None if padding is None else _less(conv, padding, kernel)


def conv_padding(conv: nn.Layer, kernel: Extent) -> Any:
    """The argument `padding` of a convolution with a part of its kernel."""
    padding = padding_at(conv, kernel)
    if padding is None or length(kernel) == conv._kernel_size[0]:
        return conv._padding
    if all(before == after for before, after in padding):
        return [side for side, _ in padding]
    return [side for sides in padding for side in sides]


def pad_padding(conv: nn.Layer, kernel: Extent) -> list[int]:
    """The argument `pad` of `F.pad`, last dimension first, for padding that is not zeros."""
    return [side for sides in reversed(padding_at(conv, kernel) or []) for side in sides]


def elastic_kernels(conv: nn.Layer, choices: Sequence[int]) -> tuple[int, ...]:
    """Which of some kernel sizes a convolution can have.

    Args:
        conv: a plain or elastic convolution, transposed or not.
        choices: kernel sizes, each at least 1.

    Returns: those no larger than its own that its padding allows, ascending. None for a kernel that is not
        square, of size 1, or larger than every choice (a 7 x 7 stem stays with the choices 3 and 5).
    """
    own = conv._kernel_size[0]
    if not is_square(conv) or not 2 <= own <= max(choices):
        return ()
    return tuple(sorted({size for size in choices if size <= own and fits(conv, centre(size, own))}))


def fits(conv: nn.Layer, kernel: Extent) -> bool:
    """Whether a convolution's padding is large enough for a part of its kernel to keep the output's size."""
    padding = padding_of(conv)
    if padding is None:
        # "SAME" pads nothing where a transposed kernel is smaller than the stride, and the output shrinks.
        return not isinstance(conv, TRANSPOSED) or length(kernel) >= min(conv._kernel_size[0], max(conv._stride))
    return all(side >= 0 for sides in _less(conv, padding, kernel) for side in sides)


def _less(conv: nn.Layer, padding: list[tuple[int, int]], kernel: Extent) -> list[tuple[int, int]]:
    ((start, stop),) = ranges_of(kernel)
    end = conv._kernel_size[0] - stop
    return [
        (before - start * step, after - end * step)
        for (before, after), step in zip(padding, conv._dilation, strict=True)
    ]


def fixed_kernel_reason(conv: nn.Layer, choices: Sequence[int]) -> str | None:
    """Why a convolution keeps its kernel size despite these choices; None where it need not."""
    sides, largest = conv._kernel_size, max(choices)
    if not is_square(conv):
        return f"its kernel {' x '.join(map(str, sides))} is not square"
    if not 2 <= sides[0] <= largest:
        return f"its kernel size {sides[0]} is not between 2 and {largest}, the largest choice"
    if min(choices) >= sides[0]:
        return f"no choice is below its kernel size {sides[0]}"
    if not set(elastic_kernels(conv, choices)) - {sides[0]}:
        return f"its padding {conv._padding!r} is too small for a kernel smaller than {sides[0]}"
    return None


def widen_padding(conv: nn.Layer, old: int, new: int) -> None:
    """Pads a convolution so that with its new, larger kernel its outputs stay where they were."""
    padding = padding_of(conv)
    conv._kernel_size = [new] * len(conv._kernel_size)
    if padding is None:  # "SAME" needs no change
        return
    ((start, stop),) = ranges_of(centre(old, new))
    wide = [
        (before + start * step, after + (new - stop) * step)
        for (before, after), step in zip(padding, conv._dilation, strict=True)
    ]
    set_padding(conv, wide)


def set_padding(conv: nn.Layer, padding: Sequence[tuple[int, int]]) -> None:
    """Gives a convolution its padding, ``(before, after)`` per spatial dimension."""
    conv._padding = [side for sides in padding for side in sides]
    if conv._padding_mode != "zeros":
        conv._reversed_padding_repeated_twice = [side for sides in reversed(padding) for side in sides]
    elif hasattr(conv, "_updated_padding"):
        conv._updated_padding, conv._padding_algorithm = conv._padding, "EXPLICIT"

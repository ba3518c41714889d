"""`ElasticConv`: width, groups and kernel size of elastic convolutions, transposed or not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, cast

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from ofa_slim.errors import ConvertError, IllegalSubnetError
from ofa_slim.supernet.layers.elastic import CANDIDATE_KEYS, CandidateConfig, ElasticLayer, checked_candidates
from ofa_slim.supernet.layers.kernels import centre, conv_padding, fits, is_square, pad_padding, widen_padding
from ofa_slim.supernet.spec import Extent, Sizes, leading_of_each, length, range_of, ranges_of

Sides = int | Sequence[int]


def is_depthwise(conv: nn.Layer) -> bool:
    """Whether each input channel of a convolution is a group of its own, so that its width is its input's."""
    return conv._groups > 1 and conv._groups == conv._in_channels


class ElasticConv(ElasticLayer):
    """Mixin of every elastic convolution.

    With one group any width is possible. A depthwise convolution has as many groups as channels come in, and
    as many outputs of each as before. Otherwise the number of groups stays, and every group is cut equally.

    Attributes:
        function: what computes the convolution.
        depthwise_only: whether each input channel must be a group of its own.
        transforms: kernel sizes, largest first, each made from the one before by a learned matrix: the parameters
            ``transform_7_to_5`` ``[25, 25]``, ``transform_5_to_3`` ``[9, 9]``; empty for none.
    """

    function: ClassVar[Callable[..., paddle.Tensor]]
    depthwise_only: ClassVar[bool] = False
    transforms: tuple[int, ...] = ()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sides,
        candidate_config: CandidateConfig | None = None,
        transform_kernel: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Makes the Paddle layer, as large as the largest of its choices, and makes it elastic.

        Args:
            in_channels: full input width.
            out_channels: full output width.
            kernel_size: full size of the kernel.
            candidate_config: choices for sampling.
            transform_kernel: whether smaller kernels are made from larger ones by learned matrices.
            args: the other arguments of the Paddle layer, in its order.
            kwargs: the same by name.

        Raises: ConvertError for choices or groups that it cannot have.
        """
        name = type(self).__name__
        choices = checked_candidates(name, candidate_config, CANDIDATE_KEYS)
        kernels = cast("tuple[int, ...]", choices.get("kernel_size", ()))
        side = _square_side(name, kernel_size) if kernels else 0
        if kernels:
            kernel_size = max(side, *kernels)
        signature = inspect.signature(super().__init__)
        arguments = signature.bind(in_channels, out_channels, kernel_size, *args, **kwargs).arguments
        groups = arguments.get("groups", 1)
        if self.depthwise_only:
            if groups not in (1, in_channels):
                raise ConvertError(f"{name}: {groups} groups, but {in_channels} input channels")
            groups = arguments["groups"] = in_channels
        if not 1 < groups == in_channels:
            arguments["out_channels"] = max([out_channels, *choices.get("channel", ())])
        super().__init__(**arguments)
        if kernels and self._kernel_size[0] > side:
            widen_padding(self, side, self._kernel_size[0])
        self.make_by_hand(choices)
        for size in kernels:
            if not fits(self, centre(size, self._kernel_size[0])):
                raise ConvertError(
                    f"{name}: kernel size {size} is not possible for a kernel of {self._kernel_size[0]} "
                    f"with padding {self._padding!r}, which is too small for the output to keep its size"
                )
        if transform_kernel:
            self.add_transforms(cast("Iterable[int]", self.candidate_config.get("kernel_size", ())))

    def add_transforms(self, choices: Iterable[int]) -> None:
        """Learns, for each kernel size, a matrix that makes its kernel from the centre of the next larger one.

        The matrices begin as identities, so that at first a smaller kernel is the centre of a larger one.

        Raises: ConvertError where a choice is not between 1 and the size of the kernel, or that is not square.

        Source: Cai et al. 2020, arXiv:1908.09791, section 3.2.
        """
        full, dims = self._kernel_size[0], len(self._kernel_size)
        if not is_square(self):
            raise ConvertError(f"{self.full_name()}: kernel {self._kernel_size} is not square, so it cannot be elastic")
        sizes = tuple(sorted({full, *choices}, reverse=True))
        if sizes[0] > full or sizes[-1] < 1:
            raise ConvertError(f"{self.full_name()}: kernel sizes {sizes} are not between 1 and {full}")
        for larger, size in pairwise(sizes):
            entries = size**dims
            identity = nn.initializer.Assign(np.eye(entries))  # NumPy: a tensor would be symbolic in a static graph
            matrix = self.create_parameter([entries, entries], default_initializer=identity)
            self.add_parameter(f"transform_{larger}_to_{size}", matrix)
        self.transforms = sizes

    def drop_state(self) -> None:
        """Removes the attributes and parameters that its plain layer does not have."""
        super().drop_state()
        for larger, size in pairwise(vars(self).pop("transforms", ())):
            delattr(self, f"transform_{larger}_to_{size}")

    def part(self, name: str, sizes: Sizes) -> paddle.Tensor | None:
        """The part of parameter `name` at `sizes`; that of the weight with its kernel transformed."""
        kernel = length(sizes.get("kernel", self._kernel_size[0]))
        if name != "weight" or not self.transforms or kernel == self.transforms[0]:
            return super().part(name, sizes)
        if kernel not in self.transforms:
            raise IllegalSubnetError(f"{self.full_name()}: kernel size {kernel} is not one of {self.transforms}")
        others = {role: extent for role, extent in sizes.items() if role != "kernel"}
        weight = cast(paddle.Tensor, super().part(name, others))
        for larger, size in pairwise(self.transforms[: self.transforms.index(kernel) + 1]):
            weight = self._transformed(weight, larger, size)
        return weight

    def _transformed(self, weight: paddle.Tensor, larger: int, size: int) -> paddle.Tensor:
        # Each is a centre of the full kernel, but not always of the next larger one (5, 4, 3).
        ((outer, _),), ((inner, _),) = (ranges_of(centre(part, self._kernel_size[0])) for part in (larger, size))
        start = inner - outer
        middle = range_of(weight, dict.fromkeys(range(2, weight.ndim), (start, start + size)))
        flat = middle.reshape([-1, size ** (weight.ndim - 2)])
        return paddle.matmul(flat, getattr(self, f"transform_{larger}_to_{size}")).reshape(middle.shape)

    @paddle.jit.not_to_static  # the translation does not support zip(strict=) and resolves super() wrongly
    def convolve(
        self,
        x: paddle.Tensor,
        kernel_size: int | None,
        expand_ratio: float | None,
        channel: int | None,
        **more: Any,
    ) -> paddle.Tensor:
        """Applies the layer with the sizes of the call, or else the active ones."""
        sizes = self.channel_sizes(x.shape[self._channel_dim], expand_ratio, channel)
        groups = x.shape[self._channel_dim] if is_depthwise(self) else self._groups
        sizes["kernel"] = self._kernel_extent(kernel_size)
        padding = conv_padding(self, sizes["kernel"])
        if self._padding_mode != "zeros":
            x = F.pad(x, pad_padding(self, sizes["kernel"]), self._padding_mode, data_format=self._data_format)
            padding = 0
        return type(self).function(
            x,
            self.part("weight", sizes),
            bias=self.part("bias", sizes),
            stride=self._stride,
            padding=padding,
            dilation=self._dilation,
            groups=groups,
            data_format=self._data_format,
            **more,
        )

    def channel_sizes(self, width: int, expand_ratio: float | None, channel: int | None) -> dict[str, Extent]:
        """The extents of the channel roles for an input of `width` channels."""
        if width > self._in_channels:
            raise IllegalSubnetError(f"{self.full_name()}: {width} input channels; at most {self._in_channels}")
        outputs = self._out_channels // self._groups
        if is_depthwise(self):
            # It follows its input; the active sizes only tell which channels the input has.
            leading = {**self.inputs_at(1, width), **self.outputs_at(outputs, width)}
            active = self.active_sizes
            return {
                role: active[role] if role in active and length(active[role]) == length(extent) else extent
                for role, extent in leading.items()
            }
        self._check_groups("input", width)
        sizes = {**self.inputs_at(width // self._groups, self._groups), **self.active_sizes}
        if expand_ratio is not None or channel is not None:
            wanted = length(cast("Extent", self.output_extent(expand_ratio, channel)))
            sizes.update(self.outputs_at(max(1, wanted // self._groups), self._groups))
        elif "out" in sizes:
            self._check_groups("output", length(sizes["out"]))
        return sizes

    def inputs_at(self, count: int, groups: int) -> dict[str, Extent]:
        """The extents of the input roles for `count` channels of each group."""
        return {"in": count}

    def outputs_at(self, count: int, groups: int) -> dict[str, Extent]:
        """The extents of the output roles for `count` channels of each group."""
        return {"out": leading_of_each(count, self._out_channels // self._groups, groups)}

    def _check_groups(self, side: str, width: int) -> None:
        if width % self._groups:
            raise IllegalSubnetError(
                f"{self.full_name()}: {side} width {width} is not a multiple of its {self._groups} groups"
            )

    def _kernel_extent(self, size: int | None) -> Extent:
        full = self._kernel_size[0]
        if size is None:
            return self.active_sizes.get("kernel", full)
        if not is_square(self):
            raise IllegalSubnetError(
                f"{self.full_name()}: kernel size {size!r} given, but its kernel {self._kernel_size} is not square"
            )
        if not isinstance(size, int) or not 1 <= size <= full:
            raise IllegalSubnetError(f"{self.full_name()}: kernel size {size!r} is not between 1 and {full}")
        return centre(size, full)


def _square_side(name: str, kernel_size: Sides) -> int:
    """The side of a kernel that is to be elastic; raises `ConvertError` where it is not square."""
    sides = {kernel_size} if isinstance(kernel_size, int) else set(kernel_size)
    if len(sides) > 1:
        raise ConvertError(f"{name}: kernel {kernel_size!r} is not square, so it cannot be elastic")
    return sides.pop()


def cut_conv(conv: nn.Layer, sizes: Sizes, inputs: int, outputs: int, groups: int) -> Callable[[], None]:
    """Sets the attributes of a plain convolution whose parameters are already cut; returns a function that undoes it.

    Args:
        conv: the convolution.
        sizes: the extent of each role.
        inputs: its new number of input channels.
        outputs: its new number of output channels.
        groups: its new number of groups.
    """
    new: dict[str, Any] = {"_in_channels": inputs, "_out_channels": outputs, "_groups": groups}
    kernel = sizes.get("kernel")
    if kernel is not None and length(kernel) != conv._kernel_size[0]:
        padding = conv_padding(conv, kernel)
        new |= {"_kernel_size": [length(kernel)] * len(conv._kernel_size), "_padding": padding}
        if conv._padding_mode != "zeros":
            new["_reversed_padding_repeated_twice"] = pad_padding(conv, kernel)
        elif hasattr(conv, "_updated_padding") and not isinstance(padding, str):
            new |= {"_updated_padding": padding, "_padding_algorithm": "EXPLICIT"}
    if conv._op_type in ("conv2d", "depthwise_conv2d"):
        # As Paddle's constructor chooses it.
        depthwise = inputs == groups != 1 and outputs % inputs == 0
        new["_op_type"] = "depthwise_conv2d" if depthwise else "conv2d"
    old = {name: getattr(conv, name) for name in new}

    def set_all(values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(conv, name, value)

    set_all(new)
    return lambda: set_all(old)

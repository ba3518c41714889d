"""Elastic batch normalisation."""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.nn import functional as F

from ofa_slim.supernet.layers.elastic import FollowingLayer
from ofa_slim.supernet.layers.norm import norm_row, of_one_kind
from ofa_slim.supernet.spec import Extent, LayerSpec, indices_of, ranges_of, register


class ElasticBatchNorm(FollowingLayer):
    """Mixin of every elastic batch norm: it normalises as many channels as its input has.

    In training only the running statistics of these channels are updated.
    """

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        """Normalises the channels.

        Args:
            input: float ``[batch, width, ...]``, or channels last as `data_format` says; `width` may be
                smaller than the full one.

        Returns: float, the shape of the input.
        """
        self._check_input_dim(input)
        return self.normalise(input, self.followed(input))

    @property
    def global_stats(self) -> bool | None:
        """Whether it normalises with the running statistics; None: only when it does not train."""
        return self._use_global_stats

    def normalise(self, input: paddle.Tensor, extent: Extent) -> paddle.Tensor:
        """Applies batch norm with these of the layer's channels."""
        mean, variance = statistics_of(self._mean, extent), statistics_of(self._variance, extent)
        use_global_stats = self.global_stats
        weight, bias = of_one_kind(self.part("weight", {"out": extent}), self.part("bias", {"out": extent}))
        result = F.batch_norm(
            input,
            mean,
            variance,
            weight=weight,
            bias=bias,
            training=self.training,
            momentum=self._momentum,
            epsilon=self._epsilon,
            data_format=self._data_format,
            use_global_stats=use_global_stats,
        )
        if self.training if use_global_stats is None else not use_global_stats:
            put_back(mean, self._mean, extent)
            put_back(variance, self._variance, extent)
        return result


def statistics_of(whole: paddle.Tensor, extent: Extent) -> paddle.Tensor:
    """These entries of running statistics: the tensor itself, a view where possible, or else a copy."""
    if _is_all(extent, whole):
        return whole
    if _is_view(extent):
        ((start, stop),) = ranges_of(extent)
        with paddle.no_grad():
            return whole[start:stop]  # a view, on 3.0 to 3.3, so batch norm updates the whole in place
    # In a static graph Paddle refuses to change a tensor after `slice` or `index_select` read it.
    return paddle.gather(whole, indices_of(extent, whole))


def put_back(part: paddle.Tensor, whole: paddle.Tensor, extent: Extent) -> None:
    """Writes updated statistics back where `part` is a copy of entries of `whole`."""
    if not _is_all(extent, whole) and not _is_view(extent):
        paddle.assign(paddle.scatter(whole, indices_of(extent, whole), part), whole)


def _is_all(extent: Extent, whole: paddle.Tensor) -> bool:
    return ranges_of(extent) == ((0, whole.shape[0]),)


def _is_view(extent: Extent) -> bool:
    return paddle.in_dynamic_mode() and len(ranges_of(extent)) == 1


class SuperBatchNorm1D(ElasticBatchNorm, nn.BatchNorm1D):
    """`paddle.nn.BatchNorm1D`, with its arguments, over as many channels as its input has."""


class SuperBatchNorm2D(ElasticBatchNorm, nn.BatchNorm2D):
    """`paddle.nn.BatchNorm2D`, with its arguments, over as many channels as its input has."""


class SuperBatchNorm3D(ElasticBatchNorm, nn.BatchNorm3D):
    """`paddle.nn.BatchNorm3D`, with its arguments, over as many channels as its input has."""


class SuperBatchNorm(ElasticBatchNorm, nn.BatchNorm):
    """`paddle.nn.BatchNorm`, the older layer that has an activation, with its arguments."""

    @property
    def _data_format(self) -> str:
        return self._data_layout

    @property
    def global_stats(self) -> bool | None:
        """Whether it normalises with the running statistics; None: only when it does not train."""
        return True if self._use_global_stats else False if self._trainable_statistics else None

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        """Normalises the channels and applies the activation; see `SuperBatchNorm2D`."""
        result = self.normalise(input, self.followed(input))
        return getattr(F, self._act)(result) if self._act else result


class SuperSyncBatchNorm(ElasticBatchNorm, nn.SyncBatchNorm):
    """`paddle.nn.SyncBatchNorm`, with its arguments, over as many channels as its input has.

    With one process, or on a CPU, where Paddle has no kernel for it, it is a batch norm.
    """

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        """Normalises the channels over the batches of all processes; see `SuperBatchNorm2D`."""
        extent = self.followed(input)
        if paddle.distributed.get_world_size() == 1 or paddle.device.get_device() == "cpu":
            return self.normalise(input, extent)
        mean, variance = statistics_of(self._mean, extent), statistics_of(self._variance, extent)
        weight, bias = of_one_kind(self.part("weight", {"out": extent}), self.part("bias", {"out": extent}))
        parts = {"weight": weight, "bias": bias, "_mean": mean, "_variance": variance}
        # Only Paddle's own forward of this layer calls the synchronised operator, and it reads the layer's parameters.
        whole = dict(self._parameters)
        try:
            self._parameters.update(parts)
            result = nn.SyncBatchNorm.forward(self, input)
        finally:
            self._parameters.update(whole)
        if self.training:
            put_back(mean, self._mean, extent)
            put_back(variance, self._variance, extent)
        return result


for plain, elastic, size in (
    (nn.BatchNorm, SuperBatchNorm, None),
    (nn.BatchNorm1D, SuperBatchNorm1D, "_num_features"),
    (nn.BatchNorm2D, SuperBatchNorm2D, "_num_features"),
    (nn.BatchNorm3D, SuperBatchNorm3D, "_num_features"),
    (nn.SyncBatchNorm, SuperSyncBatchNorm, "_num_features"),
):
    register(LayerSpec(plain, elastic, **norm_row(size, statistics=("_mean", "_variance"))))

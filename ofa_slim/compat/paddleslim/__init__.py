"""Runs scripts that were written for PaddleSlim's `nas.ofa` with `ofa_slim`.

Import this before anything of PaddleSlim, and nothing else in the script has to change::

    import ofa_slim.compat.paddleslim

Where PaddleSlim is absent, or its import fails, ``paddleslim.nas.ofa`` is then this library, and Paddle's transformer
encoder, its layers and its attention take ``[mask, head_mask]`` in place of a mask. Every other call of theirs is as it
was. `uninstall` takes all of it back.

What is different on purpose:

- Importance scores each batch for itself, in full and in eval mode, and leaves no gradients behind. The published pass
  never cleared them, so that the first of n batches counted n times. `accumulate_gradients`, or the argument
  ``accumulate=True`` of ``compute_neuron_head_importance``, brings those numbers back.
- Attention keeps its scale, ``head_dim ** -0.5``, which the published replacement of it had lost.
- A head mask that differs between the positions of a row is refused: it is of heads.
- The layers are not wrapped in blocks: ``layer.fn`` is the layer, and no key of a state dict has ``.fn`` in it. Keys of
  old state dicts that have it are understood by ``set_state_dict``.
- The number of heads is that of the sub-network. Scripts may set it, as they had to, and change nothing by it.
- The teacher is no part of the supernet, always in eval mode, and runs once per batch however many widths there are.
- ``set_task("width")`` samples widths; it used to sample the largest sub-network alone, as only ``"expand_ratio"`` was
  the name of a choice.
- ``"depth"`` of ``dynabert_config`` is a number of layers, not a share.
- Convolutions with elastic kernels keep the output's size as it was, and do not take on "same" padding.
- ``export`` checks that its result computes what the supernet does; without an ``origin_model`` it cuts a copy.
- A ``teacher_model_path`` that is a pickle needs ``DistillConfig(allow_pickle=True)``.
"""

from __future__ import annotations

import logging
from types import ModuleType

from ofa_slim.compat.paddleslim import forwards, modules, watch
from ofa_slim.compat.paddleslim.published_importance import accumulate_gradients

__all__ = ["accumulate_gradients", "install", "installed", "uninstall"]

logger = logging.getLogger(__name__)

_kept: dict[str, ModuleType] | None = None


def installed() -> bool:
    """Whether `paddleslim` is this library now."""
    return _kept is not None


def install(force: bool = False) -> bool:
    """Makes `paddleslim.nas.ofa` this library, and Paddle's encoder take ``[mask, head_mask]``.

    Importing the package does it. One log line says what was done.

    Args:
        force: also where PaddleSlim itself is installed and works.

    Returns: whether `paddleslim` is this library now.
    """
    global _kept
    if _kept is not None:
        return True
    reason = modules.failure()
    if reason is None and not force:
        logger.warning(
            "PaddleSlim is installed and works, so it stays as it is; ofa_slim.compat.paddleslim.install(force=True) "
            "puts ofa_slim in its place"
        )
        return False
    _kept = modules.put()
    forwards.accept_head_masks()
    watch.begin()
    logger.warning("paddleslim.nas.ofa is ofa_slim from now on: %s", reason or "PaddleSlim works, but force=True")
    return True


def uninstall() -> None:
    """Takes everything back: the modules, the forwards of Paddle's classes, the watch for PaddleNLP.

    Models that were made meanwhile go on working.
    """
    global _kept
    if _kept is None:
        return
    watch.end()
    forwards.take_back()
    modules.take_out(_kept)
    _kept = None


install()

"""Runs scripts that were written for PaddleSlim's `nas.ofa` with `ofa_slim`.

Import this before anything of PaddleSlim, and nothing else in the script has to change::

    import ofa_slim.compat.paddleslim

Where PaddleSlim is absent, or its import fails, ``paddleslim.nas.ofa`` is then this library, and Paddle's transformer
encoder, its layers and its attention accept ``[mask, head_mask]`` as their mask. All other calls work as before.
`uninstall` takes everything back.

What is different on purpose:

- Importance scores each batch by its own gradients, in full and in eval mode, and leaves no gradients behind. The
  published function never cleared them, so that the first of n batches counted n times. `accumulate_gradients`, or the
  argument ``accumulate=True`` of ``compute_neuron_head_importance``, brings those scores back.
- Attention keeps its scale, ``head_dim ** -0.5``, which the published replacement had lost.
- A head mask that differs between the positions of a row is refused: it belongs to heads.
- The layers are not wrapped in blocks: ``layer.fn`` is the layer itself, and no key of a state dict has ``.fn`` in it.
  ``set_state_dict`` understands the keys of old state dicts that have it.
- The number of heads is that of the sub-network. Scripts may set it, as they had to, but that changes nothing.
- The teacher is not part of the supernet, is always in eval mode, and runs once per batch for all widths together.
- ``set_task("width")`` samples widths; the published one then ran the largest sub-network only, because it knew the
  choices as ``"expand_ratio"`` alone.
- ``"depth"`` of ``dynabert_config`` is a number of layers, not a share.
- Convolutions with elastic kernels keep their output size and do not get "same" padding.
- ``export`` checks that its result computes what the supernet computes; without an ``origin_model`` it cuts a copy.
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
    """Whether `paddleslim` is this library."""
    return _kept is not None


def install(force: bool = False) -> bool:
    """Makes `paddleslim.nas.ofa` this library, and lets Paddle's encoder accept ``[mask, head_mask]``.

    Importing this package calls it. It logs one line about what it did.

    Args:
        force: do so also where PaddleSlim itself is installed and works.

    Returns: whether `paddleslim` is this library.
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
    """Restores the modules, the forwards of Paddle's classes, and what was adapted in PaddleNLP.

    Models that were made before keep working.
    """
    global _kept
    if _kept is None:
        return
    watch.end()
    forwards.take_back()
    modules.take_out(_kept)
    _kept = None


install()

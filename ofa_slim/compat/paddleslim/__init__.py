"""Runs scripts that were written for PaddleSlim's `nas.ofa` with `ofa_slim`.

Import this before anything of PaddleSlim, and nothing else in the script has to change::

    import ofa_slim.compat.paddleslim
"""

from __future__ import annotations

import logging
from types import ModuleType

from ofa_slim.compat.paddleslim import forwards, modules, watch
from ofa_slim.compat.paddleslim.importance import accumulate_gradients

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
    reason = modules.works()
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

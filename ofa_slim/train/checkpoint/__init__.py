"""Checkpoints of a training run: exact, checked, never a pickle."""

from ofa_slim.train.checkpoint.manager import Checkpoint, CheckpointManager
from ofa_slim.train.checkpoint.signals import StopRequest, stop_on_signals

__all__ = ["Checkpoint", "CheckpointManager", "StopRequest", "stop_on_signals"]

"""Checkpoints of a training run: exact, checked, never a pickle."""

from ofa_slim.checkpoint.manager import Checkpoint, CheckpointManager
from ofa_slim.checkpoint.signals import StopRequest, stop_on_signals

__all__ = ["Checkpoint", "CheckpointManager", "StopRequest", "stop_on_signals"]

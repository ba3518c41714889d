"""Supernet training with PaddleNLP's Trainer; importing this imports PaddleNLP."""

from ofa_slim.integrations.trainer.arguments import OFAArguments
from ofa_slim.integrations.trainer.trainer import OFATrainer

__all__ = ["OFAArguments", "OFATrainer"]

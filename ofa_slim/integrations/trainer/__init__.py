"""Supernet training with PaddleNLP's Trainer; importing this imports PaddleNLP."""

from ofa_slim.base.optional import require_paddlenlp

require_paddlenlp("OFATrainer")

from ofa_slim.integrations.trainer.arguments import OFAArguments  # noqa: E402
from ofa_slim.integrations.trainer.trainer import OFATrainer  # noqa: E402

__all__ = ["OFAArguments", "OFATrainer"]

"""What sub-networks learn from a teacher: `DistillConfig` and `AttentionRelations`; and `TeacherCache`, on disk."""

from ofa_slim.train.attention_relations import AttentionRelations
from ofa_slim.train.distill_config import DistillConfig
from ofa_slim.train.teacher import TeacherCache

__all__ = ["AttentionRelations", "DistillConfig", "TeacherCache"]

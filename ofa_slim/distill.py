"""What sub-networks learn from a teacher: `DistillConfig`, and `TeacherCache` for its answers on disk."""

from ofa_slim.train.distill_config import DistillConfig
from ofa_slim.train.teacher import TeacherCache

__all__ = ["DistillConfig", "TeacherCache"]

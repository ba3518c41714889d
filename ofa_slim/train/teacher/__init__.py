"""The teacher: how it computes its answers, and how they are remembered or kept on disk."""

from ofa_slim.train.teacher.answer import Answer
from ofa_slim.train.teacher.cache import CachedEngine, TeacherCache
from ofa_slim.train.teacher.engines import ENGINES, engine_of
from ofa_slim.train.teacher.memo import Teacher

__all__ = ["ENGINES", "Answer", "CachedEngine", "Teacher", "TeacherCache", "engine_of"]

"""The teacher: which answers it remembers or keeps on disk, and how it computes them."""

from ofa_slim.train.teacher.cache import CachedEngine, TeacherCache
from ofa_slim.train.teacher.engines import ENGINES, Answer, engine_of
from ofa_slim.train.teacher.memo import OwnTeacher, Teacher

__all__ = ["ENGINES", "Answer", "CachedEngine", "OwnTeacher", "Teacher", "TeacherCache", "engine_of"]

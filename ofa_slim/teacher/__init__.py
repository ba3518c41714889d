"""The teacher: which answers it remembers, and how it computes them."""

from ofa_slim.teacher.engines import ENGINES, Answer, engine_of
from ofa_slim.teacher.memo import OwnTeacher, Teacher

__all__ = ["ENGINES", "Answer", "OwnTeacher", "Teacher", "engine_of"]

"""Teachers for distillation: finding, loading and checking them, and caching their outputs."""

from cifarlab.teachers.cache import Replay
from cifarlab.teachers.diagnosis import (
    describe_teacher,
    examine,
    has_same_pictures,
    knows_validation,
    teacher_faults,
    teacher_warnings,
)
from cifarlab.teachers.find import find_teacher, load_teacher, missing_teachers
from cifarlab.teachers.teacher import Teacher

__all__ = [
    "Replay",
    "Teacher",
    "describe_teacher",
    "examine",
    "find_teacher",
    "has_same_pictures",
    "knows_validation",
    "load_teacher",
    "missing_teachers",
    "teacher_faults",
    "teacher_warnings",
]

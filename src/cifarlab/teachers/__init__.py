"""Teachers: trained models that a student learns from, what they say kept, and whether it says anything."""

from cifarlab.teachers.cache import Replay, Stopped
from cifarlab.teachers.health import complaints, describe, examine
from cifarlab.teachers.teacher import Teacher, find_teacher, load_teacher, missing_teachers

__all__ = [
    "Replay",
    "Stopped",
    "Teacher",
    "complaints",
    "describe",
    "examine",
    "find_teacher",
    "load_teacher",
    "missing_teachers",
]

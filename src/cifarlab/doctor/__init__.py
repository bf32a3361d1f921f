"""The doctor: checks of a recipe for mistakes before it is trained."""

from cifarlab.doctor import batch, deep, static  # noqa: F401  (imported to register their checks)
from cifarlab.doctor.check_registry import CHECKS, Check, Finding, check
from cifarlab.doctor.diagnosis import Diagnosis, diagnose
from cifarlab.doctor.static import warnings_before

__all__ = ["CHECKS", "Check", "Diagnosis", "Finding", "check", "diagnose", "warnings_before"]

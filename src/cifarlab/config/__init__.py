"""Configurations: a run's typed sections, checked one by one and together."""

from cifarlab.config.config import NOT_IDENTITY, ROOT, Config, build_config, keys_at, without_places
from cifarlab.config.sections import DataConfig, ModelConfig, OptimConfig, TeacherConfig

__all__ = [
    "NOT_IDENTITY",
    "ROOT",
    "Config",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "TeacherConfig",
    "build_config",
    "keys_at",
    "without_places",
]

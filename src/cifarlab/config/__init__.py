"""Configurations of runs: typed sections, recipes and overrides, saved configurations."""

from cifarlab.config.config import NOT_IDENTITY, ROOT, Config, build_config, identity_of, keys_at
from cifarlab.config.sections.data import DataConfig
from cifarlab.config.sections.model import ModelConfig
from cifarlab.config.sections.optim import OptimConfig
from cifarlab.config.sections.train import TeacherConfig

__all__ = [
    "NOT_IDENTITY",
    "ROOT",
    "Config",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "TeacherConfig",
    "build_config",
    "identity_of",
    "keys_at",
]

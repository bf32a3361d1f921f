"""The commands, a module for each group. They import torch inside, so that `--help` is instant."""

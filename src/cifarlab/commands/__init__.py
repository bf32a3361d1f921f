"""The commands, a module each. They import torch inside, so that `--help` is instant."""

"""The commands, one module each. They import torch inside functions, so that `--help` is fast."""

"""The commands, one module each. They import torch in functions, so that `--help` is fast."""

"""Building blocks of networks: the base class `Staged`, and first layers."""

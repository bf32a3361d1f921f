"""The typed sections of a run, each checked by itself."""

"""The Python counterparts of the commands."""

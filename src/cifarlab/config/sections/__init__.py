"""Typed sections of a configuration, each validated by itself."""

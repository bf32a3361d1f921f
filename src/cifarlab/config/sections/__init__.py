"""The sections of a configuration as pydantic models, each validated on its own."""

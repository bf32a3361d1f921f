"""Data sets: reading, splitting, caching, and moving to a device."""

"""Data sets: reading them, splitting them, keeping them where they are used."""

"""Analysis of a model: accuracy by class, calibration, hard pictures, corrupted pictures."""

"""Runs trained one after the other, or several at once: each in a process with its share of the cores."""

from cifarlab.together.crew import Task, train_all, usual_at_once

__all__ = ["Task", "train_all", "usual_at_once"]

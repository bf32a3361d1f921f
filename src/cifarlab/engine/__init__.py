"""The engine, which runs training steps and scores splits, and its parts."""

"""A run on disk: its folder, log, ledger and saved model."""

"""A run on disk: folder, log, summary, ledger, environment and saved model."""

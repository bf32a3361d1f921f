"""A run on disk: folder, log, summary, environment, saved model, and the ledger of test-set uses."""

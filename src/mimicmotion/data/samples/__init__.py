"""Training samples and batches from records."""

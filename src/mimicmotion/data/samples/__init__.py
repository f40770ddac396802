"""Training samples and batches, made from records."""

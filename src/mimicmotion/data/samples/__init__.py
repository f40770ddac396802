"""Clips to training samples and batches."""

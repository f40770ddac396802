"""Training data: shards made from a folder of videos, and samples and batches made from shards."""

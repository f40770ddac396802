"""Training data: from a folder of videos to shards, from shards to samples and batches."""

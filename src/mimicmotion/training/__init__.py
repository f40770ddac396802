"""Training with Accelerate: from shards to a checkpoint by the paper's method, and the small model's stages."""

"""Train on shards with Accelerate: the video model by the paper's method, and the networks of the small model."""

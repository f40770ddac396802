"""Model weights: the known files, and how to locate, download, verify and read them."""

"""How networks run within a given memory: prediction of peaks, and the fastest way that fits."""

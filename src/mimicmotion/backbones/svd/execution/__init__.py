"""Running networks within a memory limit: prediction of peaks, and the fastest plan that fits."""

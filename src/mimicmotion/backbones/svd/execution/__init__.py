"""Run networks within a memory limit: predict memory peaks, and choose the fastest plan that fits."""

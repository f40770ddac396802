"""System services for jobs: files, threads, workers, signals, progress, devices and free memory."""

"""What every job needs from the machine: files, threads, workers, signals, progress, devices, free memory."""

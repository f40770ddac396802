"""Diffusion as pure functions: noise schedules, noise, denoisers, segment fusion, samplers, training objective."""

"""Noise schedule, denoisers, progressive latent fusion, samplers, losses."""

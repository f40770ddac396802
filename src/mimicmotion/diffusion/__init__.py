"""Pure functions of diffusion: noise levels, noise, denoisers, fusion of segments, samplers, the training objective."""

"""Training stages: denoiser, autoencoder, detail network, warp network."""

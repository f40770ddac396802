"""What can be trained: denoiser, autoencoder, detail network, warp network."""

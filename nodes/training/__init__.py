"""The model, VAE and CLIP that are wired in, as the trainer sees them."""

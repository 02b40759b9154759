"""The released base model: UNet, VAE, text encoder, sampler, checkpoint file. Imports `action` and `modules`."""

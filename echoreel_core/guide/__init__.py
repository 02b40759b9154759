"""Motion without an adapter: guidance on the clean latents that any video model predicts. Imports nothing else."""

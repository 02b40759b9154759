"""Attention layers that the Action Prism and the released UNet are both built from. Imports nothing of the pack."""

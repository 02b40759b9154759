"""The released model as the trainer drives it. Imports the rest of `training` and `lvdm`."""

"""Pairs of clips: found, checked, encoded once, served in batches. Imports `video`; `training` imports it."""

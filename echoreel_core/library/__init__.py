"""Captioned clips in a full-text index: built, searched. Imports `video` and `files`."""

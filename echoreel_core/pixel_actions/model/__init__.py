"""The embedded models and the files they come in. Imports `world`."""

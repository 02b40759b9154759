"""The method: Action Prism, added attention layers, the actions they exchange. Imports `modules` and `files` only."""

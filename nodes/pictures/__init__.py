"""The pictures that nodes draw."""

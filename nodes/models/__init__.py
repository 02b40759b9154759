"""The released model and EchoReel adapters under the host's memory management."""

"""EchoReel in pure torch: the Action Prism, its added attention layers, and the released video model. Knows no host."""

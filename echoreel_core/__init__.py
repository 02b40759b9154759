"""EchoReel in pure torch, without ComfyUI: the Action Prism, its added attention layers and the released model."""

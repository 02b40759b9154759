"""Pixel Actions: a small procedural world in which EchoReel's claim can be measured exactly."""

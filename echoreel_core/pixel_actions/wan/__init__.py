"""Pixel Actions in Wan's form: a second base model, on which EchoReel meets flow matching and full 3-D attention."""

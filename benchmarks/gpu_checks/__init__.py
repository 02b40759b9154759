"""What `gpu_check.py` looks at, one file per check."""

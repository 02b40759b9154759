"""The command line, `python -m echoreel_core COMMAND`. May import every other room; none imports it."""

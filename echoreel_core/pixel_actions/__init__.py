"""The embedded world, its models, and how they are made and measured. Imports every room but `commands`."""

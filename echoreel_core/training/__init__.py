"""Training EchoReel adapters: `python -m echoreel_core.training check|cache|train CONFIG` (see example.toml).

The loop (`loop.Trainer`) knows a video model only as a `host.TrainingHost` and its data only as a
`source.PairSource`, so that a host application can drive it step by step with its own models.
"""

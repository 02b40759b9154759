"""One trainer for every model family: settings, loop, checkpoints, metrics. Imports `lvdm`, `action`, `video`."""

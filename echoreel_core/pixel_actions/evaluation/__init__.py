"""Judge, tracker and the table of results. Imports `model` and `world`; not in the published archive."""

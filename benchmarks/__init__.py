"""Benchmarks: each writes `results/NAME.json`, from which `python -m benchmarks.tables` makes the tables of the
docs."""

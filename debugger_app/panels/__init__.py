"""The parts of the Inspect page, one module each: they ask `safety_kit.analysis` and draw what it says."""

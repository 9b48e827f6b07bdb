"""The commands, one file a group; with `cli.py` they are the composition root. A command returns its exit code."""

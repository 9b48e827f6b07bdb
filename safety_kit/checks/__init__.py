"""The checks, one file each; `base` has the protocol and the registry."""

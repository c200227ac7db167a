"""Whether a search can run on this machine."""

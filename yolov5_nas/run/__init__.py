"""A run: one search with its folder, and what is done with a finished one."""

"""What is written down: the journal, options, metrics, rewards, hooks, and the files of a run. No torch."""

"""Records, instruction building and the readers of published training formats."""

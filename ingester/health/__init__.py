"""How recorders are: what they publish about themselves, what of it is wrong, and who is told."""

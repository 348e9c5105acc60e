"""Encoders: ours and everyone else's behind one interface."""

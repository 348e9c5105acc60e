"""Contrastive training of an image tower and a text tower on captions made from facts (PathCLIP)."""

"""Towers, connectors, presets, the weight store and the assembled vision-language model."""

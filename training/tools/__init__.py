"""Training of the sub-models that answer as tools."""

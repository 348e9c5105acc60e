"""Training: data formats, one module per stage, recipes."""

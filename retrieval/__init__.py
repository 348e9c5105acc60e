"""Case library and vector stores; knows vectors and records, never a model."""

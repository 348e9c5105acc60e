"""Metrics as plain functions of predictions; each is checked against an independent implementation in the tests."""

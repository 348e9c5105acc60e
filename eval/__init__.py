"""Benchmarks, metrics, runner and report."""

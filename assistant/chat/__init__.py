"""Turns, closed questions, calibration and abstention."""

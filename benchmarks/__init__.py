"""Measurements: each module prints ratios taken in one run and can write them as JSON."""

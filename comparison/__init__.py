"""Comparisons of methods: what to run, running it, reading what was measured, and the report."""

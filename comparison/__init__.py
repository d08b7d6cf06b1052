"""Comparisons of methods: specification, runs, their results, and the report."""

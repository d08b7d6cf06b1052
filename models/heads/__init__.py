"""Segmentation heads: backbone stages -> (logits, features)."""

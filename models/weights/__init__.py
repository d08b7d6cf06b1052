"""Weights of networks: reading, converting, loading and describing files."""

from models.weights.loading import backbone_state, describe_file, is_backbone_file, load_backbone_weights, load_weights
from models.weights.state_files import State, StateFile, read_arguments, read_file, read_state

__all__ = [
    "State",
    "StateFile",
    "backbone_state",
    "describe_file",
    "is_backbone_file",
    "load_backbone_weights",
    "load_weights",
    "read_arguments",
    "read_file",
    "read_state",
]

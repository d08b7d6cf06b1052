"""Configs of runs for tests, from the settings that matter to them."""

from typing import Any

from engine.config.schema import BaselineConfig
from utils.flags import read


def make_config(config: type = BaselineConfig, **values: Any) -> Any:
    """A config with these settings; what has no default gets a value, all else has its default."""
    return read(config, {"dataset": "custom", "data": "x", "teacher_pretrained": "x"} | values)

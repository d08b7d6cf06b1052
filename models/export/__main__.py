"""python -m models.export."""

from models.export.exporter import main
from utils.cli import run_cli

if __name__ == "__main__":
    run_cli(main)

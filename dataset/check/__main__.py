"""python -m dataset.check."""

from dataset.check.checks import main
from utils.cli import run_cli

if __name__ == "__main__":
    run_cli(main)

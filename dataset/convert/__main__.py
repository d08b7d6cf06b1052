"""python -m dataset.convert."""

from dataset.convert.command import AFTER_INTERRUPT, main
from utils.cli import run_cli

if __name__ == "__main__":
    run_cli(main, interrupted=AFTER_INTERRUPT)

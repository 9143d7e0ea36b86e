"""The command line as a program, also `python -m convswap`: from here on an interrupt ends it
without a traceback, while what it is made of is still being imported."""

import sys


def main() -> None:
    """The console script."""
    try:
        from .cli import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()

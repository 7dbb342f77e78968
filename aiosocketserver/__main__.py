"""`python -m aiosocketserver serve module:Handler`: see `aiosocketserver.deploy`."""

import importlib.util
import sys


def main() -> None:
    """Run the command `aiosocketserver`."""
    if importlib.util.find_spec("click") is None:
        sys.exit("aiosocketserver: the command needs more: pip install 'aiosocketserver[deploy]'")
    from .deploy.command_line import main as run_command

    run_command()


if __name__ == "__main__":
    main()

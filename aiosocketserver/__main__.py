"""`python -m aiosocketserver serve module:Handler`: see `aiosocketserver.deploy`.

And `python -m aiosocketserver migrate path`: see `aiosocketserver.migrate`.
"""

import importlib.util
import sys


def main() -> None:
    """Run the command `aiosocketserver`."""
    if importlib.util.find_spec("click") is None:
        extra = "migrate" if sys.argv[1:2] == ["migrate"] else "deploy"
        sys.exit(f"aiosocketserver: the command needs more: pip install 'aiosocketserver[{extra}]'")
    from .deploy.command_line import main as run_command

    run_command()


if __name__ == "__main__":
    main()

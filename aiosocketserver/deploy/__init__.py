"""From a handler class to a service: the command line, workers, signals, systemd, metrics.

The core never imports this.
"""

from .background import serving
from .errors import StartError
from .running import run

__all__ = ["StartError", "run", "serving"]

"""The only place of the version: pyproject.toml and the command line have it from here."""

__version__ = "0.1.0"

"""The drop-in for the standard library's `socketserver`: comes with a later release.

Nothing is exported yet.
"""

__all__: list[str] = []

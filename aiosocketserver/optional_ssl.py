"""The module ssl, without which Python can be built, as asyncio allows for too."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl as ssl
else:
    try:
        import ssl
    except ImportError:
        ssl = None


def has_ssl() -> bool:
    """Whether the module is there."""
    return bool(ssl)

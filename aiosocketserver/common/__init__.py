"""What every room uses: CPython's private names, TLS that may be missing, texts, limits of logs."""

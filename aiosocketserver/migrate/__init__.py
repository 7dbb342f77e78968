"""`aiosocketserver migrate`: legacy handlers rewritten as coroutine handlers, on LibCST.

It works on source text, one file at a time, and imports nothing of what it reads.
"""

"""Servers, and the parts that they have: listening, admitting, dispatching, shutting down."""

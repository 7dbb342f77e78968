"""One request, from accepted to ended: its handler, where that runs, and what is told of it."""

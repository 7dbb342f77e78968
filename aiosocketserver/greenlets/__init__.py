"""Legacy handlers in greenlets of the loop's own thread. Optional: nothing below knows of it."""

"""What a handler holds: sockets and files that wait on the event loop, and how they close."""

"""What is logged of clients: nothing that could forge a line, and never a flood of them."""

"""The options of servers: each is described once, for constructors, flags, files and pages."""

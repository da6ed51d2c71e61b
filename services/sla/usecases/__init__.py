"""What sla does, each inside the caller's transaction; nothing here commits."""

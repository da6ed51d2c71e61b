"""What intake does. Each function works inside the caller's transaction and never commits."""

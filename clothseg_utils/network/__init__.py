"""Networks in PyTorch: built, read, evaluated."""

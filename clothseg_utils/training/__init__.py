"""Making a network."""

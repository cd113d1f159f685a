"""A network at work: built, read, predicting, evaluated."""

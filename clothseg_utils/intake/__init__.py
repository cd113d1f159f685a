"""Photos and labels of others become a dataset: what `convert` does."""

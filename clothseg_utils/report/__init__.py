"""A run folder as a document: Markdown, one self-contained page, and tables as LaTeX."""

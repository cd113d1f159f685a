"""What everyone agrees on: classes, settings, files, run folders."""

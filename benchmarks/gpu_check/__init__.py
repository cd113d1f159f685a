"""Whether training works on a GPU, how fast, and what limits it: `python -m benchmarks.gpu_check`.

Made for a machine that is lent for minutes: each part runs in a process of its own with a time
limit, prints one JSON line, and leaves what it found in `gpu_check.json` even if it fails, hangs or
dies. Without a GPU the parts run at a small size, and say what this device cannot show.
"""

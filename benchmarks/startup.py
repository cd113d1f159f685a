"""What every command waits for before it does anything."""

import statistics

from benchmarks.harness import Row, check_equal, run_python, seconds_of

LIMIT_SECONDS = 0.3
REPEATS = 7
_TORCH_LOADED = "import sys, clothseg_utils; print('torch' in sys.modules)"


def rows() -> list[Row]:
    """Hold the import and --help against their limit; neither may import torch."""
    check_equal("modules called torch", int(run_python("-c", _TORCH_LOADED).strip() != "False"))
    commands = {
        "import clothseg_utils": ("-c", "import clothseg_utils"),
        "python -m clothseg_utils --help": ("-m", "clothseg_utils", "--help"),
    }
    result = []
    for name, arguments in commands.items():
        run_python(*arguments)
        times = [seconds_of(lambda a=arguments: run_python(*a))[0] for _ in range(REPEATS)]
        result.append(
            Row(
                name=name,
                baseline=LIMIT_SECONDS,
                ours=statistics.median(times),
                unit="s",
                target=1.0,
                n=REPEATS,
                note="an absolute limit; whole process, interpreter included; no torch",
            )
        )
    return result

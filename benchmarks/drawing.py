"""Drawing the embedded dataset."""

import statistics

from benchmarks.harness import Row, one_thread, seconds_of
from clothseg_utils.drawing.dataset import draw

# 300 photos in 30 s on two cores.
LIMIT_SECONDS = 30 * 2 / 300
N_PHOTOS = 12


def rows() -> list[Row]:
    """Hold the time for one drawn photo, on one core, against its limit."""
    with one_thread():
        draw(0, 0, 0)
        times = [seconds_of(lambda i=i: draw(0, 0, i))[0] for i in range(N_PHOTOS)]
    return [
        Row(
            name="draw one synthetic photo with its annotations",
            baseline=LIMIT_SECONDS,
            ours=statistics.mean(times),
            unit="s",
            target=1.0,
            n=N_PHOTOS,
            note=(
                "an absolute limit: 300 photos in 30 s on two cores; mean over the first photos "
                f"of seed 0, one core, {min(times):.2f} to {max(times):.2f} s"
            ),
        )
    ]

"""The process that executes a notebook, and its end."""

import sys

from jupyter_client.manager import AsyncKernelManager


class Kernel(AsyncKernelManager):
    """Ends at once, and its workers with it, where the one that waits for it was interrupted.

    By itself it would get seconds to come to an end: it is busy and does not listen, and while it
    trains Lightning holds SIGTERM back. A batch system counts these seconds.
    """

    async def shutdown_kernel(  # type: ignore[override]  # its base is not the async one
        self, now: bool = False, restart: bool = False
    ) -> None:
        """End the process; nbclient calls it while a KeyboardInterrupt passes."""
        await super().shutdown_kernel(now or sys.exception() is not None, restart)

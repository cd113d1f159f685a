"""TensorBoard for this machine alone: `make tensorboard`.

TensorBoard asks nobody for a password and answers to any name. Bound to 127.0.0.1 it could still be
read by a page of the internet whose name is made to mean this machine (DNS rebinding), so that
other names are refused here, as JupyterLab does.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""(request, start of the answer) -> body."""


def answer_to_local_names(app: WsgiApp) -> WsgiApp:
    """Wrap a web application: requests for another host than this machine are answered by 403."""

    def answer(request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        host = request.get("HTTP_HOST", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower() in _LOOPBACK:
            return app(request, start)
        start("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"TensorBoard is for this machine alone; open it as http://127.0.0.1:PORT/.\n"]

    return answer


def main() -> int:
    """Serve until interrupted; takes TensorBoard's own options and adds `--host 127.0.0.1`."""
    from tensorboard import default, main_lib, program
    from tensorboard.plugins.base_plugin import FlagsError

    def serve(app: WsgiApp, flags: Any) -> Any:
        is_meant_for_others = flags.bind_all or flags.host not in _LOOPBACK
        app = app if is_meant_for_others else answer_to_local_names(app)
        return program.create_port_scanning_werkzeug_server(app, flags)

    main_lib.global_init()
    board = program.TensorBoard(plugins=default.get_plugins(), server_class=serve)
    try:
        board.configure(["tensorboard", "--host", _LOOPBACK[0], *sys.argv[1:]])
    except FlagsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return board.main()


if __name__ == "__main__":
    sys.exit(main())

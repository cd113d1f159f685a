"""JupyterLab and TensorBoard as make starts them: for this machine alone, by its own names."""

import contextlib
import http.client
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Iterator

import pytest
from lab import Server, free_port

from clothseg_utils.workflow.log_server import answer_to_local_names

TOKEN = "4711cafe"
LOCAL = ("127.0.0.1", "localhost", "127.0.0.1:{port}", "localhost:{port}")
FOREIGN = ("rebound.example", "rebound.example:{port}", "127.0.0.1.example", "192.168.0.7", "")
SERVERS = {
    "lab": (
        "setup",
        "LAB_FOLDER",
        "LAB_OPTIONS",
        f"/api/contents?token={TOKEN}",
    ),
    "tensorboard": (".venv/.installed", "LOG_FOLDER", "TENSORBOARD_OPTIONS", "/data/logdir"),
}
OPTIONS = {
    "lab": f"--no-browser --allow-root --IdentityProvider.token={TOKEN}",
    "tensorboard": "",
}


@pytest.fixture(scope="module", params=SERVERS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, int]]:
    """Which server, and its port."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    name, port = request.param, free_port()
    done, folder_variable, options_variable, _ = SERVERS[name]
    folder = tmp_path_factory.mktemp(name)
    (folder / "logs").mkdir()
    command = [
        # `-o`: the environment that runs this test is the one to use.
        *("make", "-o", done, name, f"VENV_PYTHON={shlex.quote(sys.executable)}"),
        f"{folder_variable}={shlex.quote(str(folder / 'logs'))}",
        f"{options_variable}=--port={port} {OPTIONS[name]}",
    ]
    places = ("CONFIG", "RUNTIME", "DATA")
    variables = {f"JUPYTER_{place}_DIR": str(folder / place) for place in places}
    path = "/api" if name == "lab" else "/"
    server = Server(command, f"http://127.0.0.1:{port}{path}", folder / "server.log", variables)
    yield name, port
    server.stop()


def answer_to(served: tuple[str, int], host: str, path: str = "") -> tuple[int, bytes]:
    """Status and body of a request that names the server so."""
    name, port = served
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest("GET", path or SERVERS[name][3], skip_host=True)
        connection.putheader("Host", host.format(port=port))
        connection.endheaders()
        with connection.getresponse() as answer:
            return answer.status, answer.read()


@pytest.mark.slow
@pytest.mark.parametrize("host", LOCAL)
def test_this_machine_is_answered(served, host):
    assert answer_to(served, host)[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("host", FOREIGN[:4])
def test_a_name_that_was_made_to_mean_this_machine_is_refused(served, host):
    status, body = answer_to(served, host)
    assert status == 403
    assert b"logs" not in body


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.2", "own"])
def test_no_other_address_of_this_machine_is_listened_at(served, address):
    if address == "own":
        address = socket.gethostbyname(socket.gethostname())
        if address == "127.0.0.1":
            pytest.skip("this machine has no other address")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, served[1]), timeout=5).close()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/api/contents", "/api/contents?token=wrong", "/api/sessions"])
def test_nobody_gets_into_lab_without_its_token(served, path):
    if served[0] == "lab":
        assert answer_to(served, "127.0.0.1", path)[0] == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in (*LOCAL, "LOCALHOST", "[::1]:{port}")),
        *((host, 403) for host in FOREIGN),
    ],
)
def test_which_names_the_logs_answer_to(host, status):
    said: list[str] = []

    def app(_: dict[str, str], start: Callable[..., None]) -> list[bytes]:
        start("200 OK", [])
        return [b"logs"]

    request = {"HTTP_HOST": host.format(port=6006)} if host else {}
    body = answer_to_local_names(app)(request, lambda text, _: said.append(text))
    assert said[0].startswith(str(status))
    assert (list(body) == [b"logs"]) == (status == 200)

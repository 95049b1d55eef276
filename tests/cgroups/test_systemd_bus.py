"""The connection to systemd: what happens when there is none, and when it ends. No systemd is needed."""

from __future__ import annotations

import socket
import threading

import pytest

from pycontain.cgroups.systemd_bus import Bus, ConnectionLost
from pycontain.errors import CgroupError, NotSupported

pytest.importorskip("jeepney", reason="the systemd driver needs jeepney")


OK = b"OK 00112233445566778899aabbccddeeff\r\n"


@pytest.fixture
def peer(tmp_path):
    """Lets somebody else than a bus answer at a socket: to the authentication, and then with silence or by leaving."""
    threads = []
    listener = socket.socket(socket.AF_UNIX)
    path = str(tmp_path / "bus")
    listener.bind(path)
    listener.listen(4)

    def serve(answer, leave=False):
        def run():
            connection, _ = listener.accept()
            with connection:
                _read_until(connection, b"\r\n")
                connection.sendall(answer)
                _read_until(connection, b"Hello" if leave else b"never")

        thread = threading.Thread(target=run)
        thread.start()
        threads.append(thread)
        return path

    yield serve
    for thread in threads:
        thread.join(30)
    listener.close()


def _read_until(connection, end):
    received = b""
    while end not in received:
        data = connection.recv(4096)
        if not data:
            return
        received += data


def test_a_socket_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(NotSupported, match=r"systemd cannot be reached at .*/bus: No such file or directory"):
        Bus(str(tmp_path / "bus")).call("GetUnit", "s", ("x.scope",))


def test_a_socket_on_which_nobody_listens_is_a_clear_error(tmp_path):
    with socket.socket(socket.AF_UNIX) as unused:
        unused.bind(str(tmp_path / "bus"))
        with pytest.raises(NotSupported, match=r"cannot be reached at .*: Connection refused"):
            Bus(str(tmp_path / "bus")).call("GetUnit", "s", ("x.scope",))


def test_a_bus_that_does_not_let_the_user_in_is_a_clear_error(peer):
    path = peer(b"REJECTED EXTERNAL\r\n")
    with pytest.raises(NotSupported, match=r"cannot be reached at .*: Authentication failed"):
        Bus(path).call("GetUnit", "s", ("x.scope",))


def test_a_bus_that_ends_in_the_middle_is_a_clear_error(peer):
    path = peer(OK, leave=True)
    with pytest.raises(ConnectionLost, match=r"the bus (has closed the connection|did not take a message)"):
        Bus(path).call("GetUnit", "s", ("x.scope",))


def test_a_bus_that_does_not_answer_in_time_is_a_clear_error(peer, monkeypatch):
    monkeypatch.setattr("pycontain.cgroups.systemd_bus.TIMEOUT", 0.2)
    path = peer(OK)
    with pytest.raises(CgroupError, match=r"there is no answer to Hello within 0\.2 s"):
        Bus(path).call("GetUnit", "s", ("x.scope",))

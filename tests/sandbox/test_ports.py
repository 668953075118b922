"""Is everything found again where it was, and does a taken port stop nobody?"""

import socket
from pathlib import Path

from sandbox.ports import LOOPBACK, Ports, is_free, listens


def test_a_name_keeps_its_port_over_a_restart(tmp_path: Path) -> None:
    first = Ports(tmp_path).take("billing")

    assert Ports(tmp_path).take("billing") == first


def test_two_names_never_share_a_port(tmp_path: Path) -> None:
    ports = Ports(tmp_path)

    assert len({ports.take(f"service {number}") for number in range(50)}) == 50


def test_a_port_that_somebody_took_meanwhile_is_left_to_him(tmp_path: Path) -> None:
    port = Ports(tmp_path).take("billing")
    with socket.create_server((LOOPBACK, port)):
        assert listens(port)
        assert not is_free(port)

        assert Ports(tmp_path).take("billing") != port


def test_a_port_that_a_client_uses_is_not_free_either(tmp_path: Path) -> None:
    port = Ports(tmp_path).take("billing")
    with socket.create_server((LOOPBACK, 0)) as server, socket.socket() as client:
        client.bind((LOOPBACK, port))
        client.connect(server.getsockname())

        assert not is_free(port)

"""Devices of a container: the default list, and those that it is given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pycontain import Container, InvalidArgument, NotSupported
from pycontain.cgroups import detect


def needs_device_limits() -> None:
    reason = detect().reason("devices")
    if reason is not None:
        pytest.skip(f"devices cannot be limited here: {reason.cause}")


def with_mknod(container: Container) -> Container:
    """With CAP_MKNOD, so that only the device controller is between the program and the device."""
    from attrs import evolve

    spec = container.spec()
    assert spec.process is not None
    assert spec.process.capabilities is not None
    old = spec.process.capabilities
    sets = {name: (*getattr(old, name), "CAP_MKNOD") for name in ("bounding", "effective", "permitted")}
    process = evolve(spec.process, capabilities=evolve(old, **sets))
    return Container.from_spec(evolve(spec, process=process))


def test_the_usual_devices_work(box: Container) -> None:
    script = "echo lost > /dev/null; head -c 2 /dev/zero | wc -c; head -c 2 /dev/urandom | wc -c; echo x > /dev/full"
    result = box.run(["sh", "-c", script])
    assert result.text.split() == ["2", "2"]
    assert b"No space left" in result.stderr


def test_a_node_for_another_device_can_be_made_but_not_opened(box: Container) -> None:
    needs_device_limits()
    result = with_mknod(box).run(["sh", "-c", "mknod /dev/mem2 c 1 1 && echo made; cat /dev/mem2"])
    assert result.text == "made\n"
    assert b"Operation not permitted" in result.stderr


def test_a_device_that_is_given_is_there_and_works(box: Container) -> None:
    result = box.with_device("/dev/zero", "/dev/nothing/zero").run(["sh", "-c", "head -c 3 /dev/nothing/zero | wc -c"])
    assert result.check().text.split() == ["3"]


@pytest.mark.parametrize("path", ["/dev/null", "/dev//zero", "/dev/tty"])
def test_a_device_that_every_container_has_can_be_given(box: Container, path: str) -> None:
    assert box.with_device(path).run(["test", "-c", path]).check()
    assert box.with_userns().with_device(path).run(["test", "-c", path]).check()


def test_a_device_that_is_given_for_reading_cannot_be_written(box: Container) -> None:
    needs_device_limits()
    loop = Path("/dev/loop-control")
    if not loop.exists():
        pytest.skip("there is no /dev/loop-control")
    script = "exec 3</dev/loop-control && echo read; exec 4>/dev/loop-control"
    result = box.with_device(loop, access="r").run(["sh", "-c", script])
    assert result.text == "read\n"
    assert b"Operation not permitted" in result.stderr


def test_a_device_stays_what_it_is_when_it_is_given(box: Container) -> None:
    result = box.with_device("/dev/zero", "/dev/z").run(["sh", "-c", "ls -l /dev/z"])
    assert result.text.startswith("crw-rw-rw-")
    assert "1,   5" in result.text


@pytest.mark.parametrize("path", ["/etc/passwd", "/no/such/device", "/dev"])
def test_what_is_no_device_is_refused(box: Container, path: str) -> None:
    with pytest.raises(InvalidArgument):
        box.with_device(path, "/dev/x")


def test_a_place_outside_dev_is_refused(box: Container) -> None:
    with pytest.raises(InvalidArgument, match="/dev"):
        box.with_device("/dev/zero", "/srv/zero")


def test_in_a_user_namespace_a_device_is_bound(box: Container) -> None:
    mapped = [(0, 200000, 65536)] if os.geteuid() == 0 else []
    own = box.with_userns(mapped, mapped)
    assert own.with_device("/dev/ptmx", "/dev/kmsg").run(["test", "-c", "/dev/kmsg"]).ok
    with pytest.raises(NotSupported, match="own path"):
        own.with_device("/dev/zero", "/dev/z").run(["true"])

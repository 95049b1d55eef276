"""Device rules: what they mean, and that the kernel keeps them."""

from __future__ import annotations

import os
import stat
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycontain.cgroups.device_bpf import program
from pycontain.cgroups.devices import policy_of, read_rules, with_defaults
from pycontain.errors import InvalidArgument, LimitNotSupported
from pycontain.spec import DeviceRule, Resources

numbers = st.sampled_from([0, 1, 3, 2**31, 2**32 - 1])
rules = st.lists(st.tuples(
    st.booleans(), st.sampled_from([None, "a", "b", "c"]), st.none() | numbers, st.none() | numbers | st.just(-1),
    st.sampled_from([None, "", "r", "w", "m", "rw", "wm", "rwm"]),
).map(lambda values: DeviceRule(*values)), max_size=6)
requests = st.tuples(st.sampled_from("bc"), numbers, numbers, st.sets(st.sampled_from("rwm"), min_size=1))

NOTHING = DeviceRule(allow=False)
DEFAULT = with_defaults(())


def character(major, minor, access=None, allow=True):
    return DeviceRule(allow=allow, type="c", major=major, minor=minor, access=access)


def allowed(device_rules, request):
    """The meaning of the rules, as the specification says it: they are applied in order."""
    kind, major, minor, access = request
    answers = dict.fromkeys("rwm", True)
    for rule in device_rules:
        if (rule.type in (None, "a", kind) and rule.major in (None, -1, major) and rule.minor in (None, -1, minor)):
            answers.update(dict.fromkeys(rule.access or "rwm", rule.allow))
    return all(answers[letter] for letter in access)


def execute(instructions, request):
    """Runs the program as the kernel would (Documentation/bpf/standardization/instruction-set.rst)."""
    kind, major, minor, access = request
    context = {0: sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access) << 16 | {"b": 1, "c": 2}[kind],
               4: major, 8: minor}
    registers: dict[int, int] = {}
    position = 0
    while True:
        code, dst, src, offset, immediate = instructions[position]
        position += 1
        if code == 0x61:
            registers[dst] = context[offset]
        elif code == 0xB7:
            registers[dst] = immediate
        elif code == 0xBF:
            registers[dst] = registers[src]
        elif code == 0x57:
            registers[dst] &= immediate
        elif code == 0x77:
            registers[dst] >>= immediate
        elif code in (0x16, 0x56):
            equal = registers[dst] & 0xFFFFFFFF == immediate & 0xFFFFFFFF
            position += offset if equal == (code == 0x16) else 0
        else:
            assert code == 0x95
            return bool(registers[0])


@given(rules, requests)
def test_the_program_means_what_the_rules_mean(device_rules, request):
    assert execute(program(read_rules(device_rules)), request) == allowed(device_rules, request)


@given(rules, requests)
def test_v1_never_allows_more_than_the_rules_do(device_rules, request):
    kind, major, minor, access = request
    try:
        policy = policy_of(read_rules(device_rules))
    except LimitNotSupported:
        return
    # As devcgroup_legacy_check_permission() does it.
    matching = [rule.access for rule in policy.exceptions
                if rule.type in (None, kind) and rule.major in (None, major) and rule.minor in (None, minor)]
    answer = not any(access & of for of in matching) if policy.default else any(access <= of for of in matching)
    if policy.default or len(access) == 1:
        assert answer == allowed(device_rules, request)
    else:
        assert answer <= allowed(device_rules, request)


def test_a_rule_that_takes_a_part_out_of_another_cannot_be_had_on_v1():
    with pytest.raises(LimitNotSupported, match=r"denying c 4:1 rwm takes a part out of c 4:\* rwm.*one by one"):
        policy_of(read_rules([NOTHING, character(4, None), character(4, 1, allow=False)]))


@pytest.mark.parametrize("rule", [character(-2, 0), character(0, 2**32)])
def test_numbers_that_no_device_has_are_refused(rule):
    with pytest.raises(InvalidArgument, match="no device has the m"):
        read_rules([rule])


def test_the_default_list_is_that_of_the_specification():
    for name in ("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"):
        if os.path.exists(f"/dev/{name}") and stat.S_ISCHR(os.stat(f"/dev/{name}").st_mode):
            number = os.stat(f"/dev/{name}").st_rdev
            if os.major(number) == 136:  # a pseudo terminal is bound there, as in a container
                continue
            assert allowed(DEFAULT, ("c", os.major(number), os.minor(number), {"r", "w", "m"}))
    assert allowed(DEFAULT, ("c", 136, 7, {"r", "w"}))
    assert allowed(DEFAULT, ("b", 8, 0, {"m"}))
    assert not allowed(DEFAULT, ("b", 8, 0, {"r"}))
    assert not allowed(DEFAULT, ("c", 1, 1, {"r"}))


def test_rules_of_a_container_come_before_the_default_list():
    rules = with_defaults((NOTHING, character(10, 200)))
    for device, answer in (((1, 3), True), ((10, 200), True), ((1, 1), False)):
        assert allowed(rules, ("c", *device, {"r"})) == answer


OPEN = """
import os, sys
for path in sys.argv[1:]:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        print("opened")
    except OSError as error:
        print(error.errno)
"""


def opened(machine, group, *paths):
    process = machine.popen(group, sys.executable, "-S", "-c", OPEN, *paths)
    return process.communicate(timeout=60)[0].split()


@pytest.fixture
def log():
    """The kernel's log, 1:11: a device that is not in the default list."""
    try:
        os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        pytest.skip(f"/dev/kmsg cannot be opened here: {error}")
    return "/dev/kmsg"


def test_a_denied_device_gives_eperm_and_an_allowed_one_works(device_machine, log):
    group = device_machine.create(Resources(devices=DEFAULT))
    assert opened(device_machine, group, "/dev/null", "/dev/urandom", log) == [b"opened", b"opened", b"1"]
    more = device_machine.create(Resources(devices=(*DEFAULT, character(1, 11, "r"))))
    assert opened(device_machine, more, log) == [b"opened"]


def test_access_is_denied_by_its_kind(device_machine):
    group = device_machine.create(Resources(devices=(NOTHING, character(1, 3, "w"))))
    process = device_machine.popen(group, "sh", "-c", "echo > /dev/null && ! cat /dev/null")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, b"")
    assert b"Operation not permitted" in errors


def test_making_a_node_may_be_denied(device_machine, tmp_path):
    for rule, answer in ((character(1, 3, "rw"), 1), (character(1, 3, "rwm"), 0)):
        group = device_machine.create(Resources(devices=(NOTHING, rule)))
        process = device_machine.popen(group, "mknod", str(tmp_path / "node"), "c", "1", "3")
        process.communicate(timeout=60)
        assert process.returncode == answer


def test_what_is_allowed_may_be_everything_but_some(device_machine, log):
    group = device_machine.create(Resources(devices=(character(1, 11, allow=False),)))
    assert opened(device_machine, group, "/dev/null", "/dev/zero", log) == [b"opened", b"opened", b"1"]


def test_the_rules_of_a_running_group_are_replaced(device_machine, log):
    group = device_machine.create(Resources(devices=DEFAULT))
    device_machine.popen(group, "sleep", "1000")
    assert opened(device_machine, group, log) == [b"1"]
    group.update(Resources(devices=(DeviceRule(allow=True),)))
    assert opened(device_machine, group, log) == [b"opened"]
    group.update(Resources(devices=DEFAULT))
    assert opened(device_machine, group, log) == [b"1"]
    assert not group.frozen


def test_a_running_group_without_rules_gets_some(device_machine, tmp_path, log):
    group = device_machine.create(kill=True)
    go = tmp_path / "go"
    program = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n{OPEN}"
    process = device_machine.popen(group, sys.executable, "-S", "-c", program, "/dev/null", log)
    group.update(Resources(devices=DEFAULT))
    go.touch()
    assert process.communicate(timeout=60)[0].split() == [b"opened", b"1"]


TRY_FOR_EVER = """
import os, sys
while True:
    try:
        os.close(os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK))
        os.write(1, b"opened")
    except PermissionError:
        pass
"""


def test_there_is_no_moment_between_old_and_new_rules(device_machine, log):
    lists = [DEFAULT, (*DEFAULT, character(10, 200)), (DeviceRule(allow=True),
             character(1, 11, allow=False))]
    group = device_machine.create(Resources(devices=DEFAULT), kill=True)
    process = device_machine.popen(group, sys.executable, "-S", "-c", TRY_FOR_EVER, log)
    for turn in range(15):
        group.update(Resources(devices=lists[turn % 3]))
    group.kill()
    assert process.communicate(timeout=60)[0] == b""


def test_a_child_may_use_only_what_both_lists_allow(device_machine, log):
    group = device_machine.create(Resources(devices=DEFAULT))
    child = device_machine.child(group, Resources(devices=(NOTHING, character(1, 3))))
    assert opened(device_machine, child, "/dev/null", "/dev/zero", log) == [b"opened", b"1", b"1"]


def test_rules_that_a_group_above_does_not_allow_are_refused_or_stay_denied(device_machine, log):
    group = device_machine.create(Resources(devices=DEFAULT))
    more = Resources(devices=(*DEFAULT, character(1, 11)))
    try:
        child = device_machine.child(group, more)
    except LimitNotSupported as error:
        assert "The group above" in str(error)  # noqa: PT017 (v1 refuses, v2 denies)
    else:
        assert opened(device_machine, child, log) == [b"1"]


def test_a_list_that_v1_cannot_have_is_refused_before_anything_is_made(device_machine):
    resources = Resources(devices=(NOTHING, character(4, None), character(4, 1, allow=False)))
    name = device_machine.new_name()
    if device_machine.driver.hierarchy != "v1":
        device_machine.create(resources)
        return
    with pytest.raises(LimitNotSupported):
        device_machine.driver.create(name, resources)
    assert name not in device_machine.driver.names()


def test_groups_with_devices_are_made_in_many_threads(device_machine):
    failures = []

    def make():
        try:
            for _ in range(10):
                device_machine.driver.create(device_machine.new_name(), Resources(devices=DEFAULT)).remove()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_without_the_right_to_load_programs_the_cause_is_said(as_nobody):
    def attempt():
        from pycontain.cgroups.cgroupfs import CgroupfsDriver
        from pycontain.cgroups.hierarchy import Hierarchy, Layout

        driver = CgroupfsDriver(Layout((Hierarchy(2, "/nowhere", frozenset(), frozenset()),), {"devices": True}))
        assert "devices" not in driver.controllers
        with pytest.raises(LimitNotSupported) as caught:
            driver.create("test-nobody", Resources(devices=DEFAULT))
        return str(caught.value)

    message = as_nobody(attempt)
    assert message.startswith("the limit devices cannot be enforced: the devices of a cgroup v2 group need a BPF ")
    assert "Run as root outside of a user namespace" in message

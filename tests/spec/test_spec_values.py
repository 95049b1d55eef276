"""Values: what hashes and compares equal, what is refused when made in Python, round trips of random specifications."""

from __future__ import annotations

import ast
import copy
import functools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pycontain.spec
from pycontain.errors import SpecError
from pycontain.spec import (
    CPU,
    Capabilities,
    Device,
    Frozen,
    FrozenMap,
    Hook,
    IDMapping,
    Linux,
    Memory,
    Mount,
    Namespace,
    Pids,
    Process,
    Rdma,
    Resources,
    Rlimit,
    Root,
    Seccomp,
    Spec,
    Syscall,
    TimeOffset,
    User,
    WeightDevice,
    from_dict,
    to_dict,
)
from pycontain.spec.kinds import Boolean, Choice, Integer, Kind, Object, Pattern, Sequence, Table, Text
from pycontain.spec.layout import layout_of

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


def values_of(kind: Kind) -> st.SearchStrategy[Any]:
    """Random values of a kind, read off the same description that the checks use."""
    if isinstance(kind, Pattern):
        return st.from_regex(rf"\A(?:{kind.pattern})\Z", alphabet="".join(map(chr, range(32, 127))))
    if isinstance(kind, Text):
        return TEXTS.map(lambda text: "/" + text if kind.absolute else text if text or kind.empty else "x")
    if isinstance(kind, Integer):
        return st.integers(kind.lowest, kind.highest)
    if isinstance(kind, Boolean):
        return st.booleans()
    if isinstance(kind, Choice):
        return st.sampled_from(sorted(kind.values))
    if isinstance(kind, Sequence):
        return st.lists(values_of(kind.item), max_size=2).map(tuple)
    if isinstance(kind, Table):
        return st.dictionaries(TEXTS.filter(bool), values_of(kind.item), max_size=2).map(FrozenMap)
    assert isinstance(kind, Object)
    return objects(kind.cls)


def unique(cls: type[Frozen]) -> st.SearchStrategy[Any]:
    return st.lists(objects(cls), max_size=3, unique_by=lambda value: value.type).map(tuple)  # type: ignore[attr-defined]


# Where a rule between fields narrows what one of them may be.
SPECIAL: dict[tuple[type[Frozen], str], st.SearchStrategy[Any]] = {
    (IDMapping, "container_id"): st.integers(0, 2**31 - 1),
    (IDMapping, "host_id"): st.integers(0, 2**31 - 1),
    (IDMapping, "size"): st.integers(0, 2**31),
    (Rlimit, "soft"): st.integers(0, 100),
    (Rlimit, "hard"): st.integers(100, 2**64 - 1),
    (CPU, "burst"): st.just(0),
    (Syscall, "names"): st.just(("read", "write")),
    (Seccomp, "listener_metadata"): st.none(),
}
ALWAYS_SET = {(Device, "major"), (Device, "minor"), (Rdma, "hca_objects"), (WeightDevice, "weight")}


@functools.cache
def objects(cls: type[Frozen]) -> st.SearchStrategy[Any]:
    """Random objects of a class, each optional field set or not."""
    special = SPECIAL | {
        (Linux, "namespaces"): st.deferred(lambda: unique(Namespace)),
        (Process, "rlimits"): st.deferred(lambda: unique(Rlimit)),
        (Linux, "time_offsets"): st.dictionaries(
            st.sampled_from(["monotonic", "boottime"]), st.deferred(lambda: objects(TimeOffset))
        ).map(FrozenMap),
    }
    required, optional = {}, {}
    for field in layout_of(cls).fields:
        values = special.get((cls, field.name), st.deferred(lambda field=field: values_of(field.kind)))  # type: ignore[misc]
        needed = field.default is attrs.NOTHING or (cls, field.name) in ALWAYS_SET
        (required if needed else optional)[field.name] = values
    return st.fixed_dictionaries(required, optional=optional).map(lambda arguments: cls(**arguments))


@given(objects(Spec))
@settings(max_examples=60)
def test_a_specification_equals_what_is_read_from_its_own_json(spec: Spec) -> None:
    again = Spec.from_json(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.to_json() == spec.to_json()


@given(objects(Linux))
@settings(max_examples=60)
def test_a_part_equals_what_is_read_from_its_own_data(linux: Linux) -> None:
    data = to_dict(linux)
    assert from_dict(Linux, data) == linux
    assert to_dict(from_dict(Linux, json.loads(json.dumps(data)))) == data


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(objects(Spec), st.data())
@settings(max_examples=150)
@pytest.mark.filterwarnings("ignore::pycontain.spec.UnknownProperty")
def test_a_document_with_one_value_replaced_is_read_or_refused(spec: Spec, data: st.DataObject) -> None:
    document: Any = to_dict(spec)
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            place[key] = data.draw(JSON)
            break
        place = place[key]
    try:
        read = from_dict(Spec, document)
    except SpecError as error:
        message = str(error)
    else:
        assert from_dict(Spec, to_dict(read)) == read
        return
    assert ": " in message  # the path of the field comes first


@given(st.binary(max_size=40) | st.text(max_size=40) | JSON.map(json.dumps))
@settings(max_examples=200)
@pytest.mark.filterwarnings("ignore::pycontain.spec.UnknownProperty")
def test_arbitrary_text_is_never_anything_but_a_specification_or_a_spec_error(text: str | bytes) -> None:
    try:
        Spec.from_json(text)
    except SpecError:
        pass


def typical() -> Spec:
    """A specification as a container compiles to."""
    return Spec(
        root=Root("/srv/root", readonly=True),
        mounts=(Mount("/proc", "proc", "proc"), Mount("/tmp", "tmpfs", "tmpfs", ("nosuid", "size=64m"))),
        process=Process(
            "/", ("true",), ("PATH=/bin",), User(1, 1, additional_gids=(5,)), capabilities=Capabilities(("CAP_KILL",))
        ),
        annotations=FrozenMap({"b": "1", "a": "2"}),
        linux=Linux((Namespace("pid"),), resources=Resources(memory=Memory(limit=2**28), pids=Pids(64))),
    )


def test_equal_values_hash_equal_and_serve_as_keys() -> None:
    assert typical() == typical()
    assert typical() is not typical()
    assert len({typical(), typical(), attrs.evolve(typical(), hostname="x")}) == 2
    assert typical() != attrs.evolve(typical(), root=Root("/srv/root"))


def test_values_of_different_classes_with_the_same_fields_differ() -> None:
    assert Pids(5) != (5,)
    assert Namespace("pid") != Root("pid")
    assert hash(IDMapping(1, 2, 3)) != hash((1, 2, 3))


def test_values_cannot_be_changed() -> None:
    spec = typical()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        spec.hostname = "x"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        spec.colour = "x"  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        spec.annotations["a"] = "x"  # type: ignore[index]


def test_values_survive_pickle_and_copy() -> None:
    for again in (pickle.loads(pickle.dumps(typical())), copy.copy(typical()), copy.deepcopy(typical())):
        assert again == typical()
        assert hash(again) == hash(typical())


def test_the_error_survives_pickle() -> None:
    with pytest.raises(SpecError) as caught:
        Mount("tmp")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value)
    assert str(again) == str(caught.value)


def test_the_representation_shows_what_differs_from_the_defaults_and_can_be_evaluated() -> None:
    assert repr(Mount("/proc", "proc")) == "Mount(destination='/proc', type='proc')"
    assert repr(Spec()) == "Spec()"
    assert eval(repr(typical()), {name: getattr(pycontain.spec, name) for name in pycontain.spec.__all__}) == typical()


def test_a_frozen_map_is_a_mapping_whose_order_does_not_count() -> None:
    one, other = FrozenMap({"a": 1, "b": 2}), FrozenMap([("b", 2), ("a", 1)])
    assert one == other
    assert hash(one) == hash(other)
    assert one == {"a": 1, "b": 2}
    assert one != {"a": 1}
    assert one != 5
    assert (one["a"], list(one), len(one), "c" in one) == (1, ["a", "b"], 2, False)
    assert repr(one) == "FrozenMap({'a': 1, 'b': 2})"


def test_a_frozen_map_does_not_follow_the_dictionary_it_was_made_from() -> None:
    source = {"a": 1}
    made = FrozenMap(source)
    source["a"] = 2
    assert made["a"] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mount("tmp"), "Mount.destination: 'tmp' is not an absolute path"),
        (lambda: Mount("/a\0"), r"Mount.destination: '/a\x00' contains a NUL byte"),
        (lambda: Mount("/a", options=["ro"]), "Mount.options: must be a tuple, not list"),
        (lambda: Mount("/a", options=("ro", 1)), "Mount.options[1]: must be a string, not an integer"),
        (lambda: Mount(b"/a"), "Mount.destination: must be a string, not bytes"),
        (lambda: User(-1, 0), "User.uid: -1 is not between 0 and 4294967294"),
        (lambda: User(0, 2**32 - 1), "User.gid: 4294967295 is not between 0 and 4294967294"),
        (lambda: User(True, 0), "User.uid: must be an integer, not a boolean"),
        (lambda: User(0, 0, additional_gids=(2**32,)), "User.additional_gids[0]: 4294967296 is not between"),
        (lambda: IDMapping(0, 1, 2**32 - 1), "IDMapping.host_id: 1 and 4294967295 ids from there exceed the last id"),
        (lambda: Process("/", args="true"), "Process.args: must be a tuple, not str"),
        (lambda: Process("/", args=("a\0",)), r"Process.args[0]: 'a\x00' contains a NUL byte"),
        (lambda: Process("/", user=0), "Process.user: must be a User, not int"),
        (lambda: Memory(limit=-2), "Memory.limit: -2 is not between -1 and"),
        (lambda: Memory(limit=1.5), "Memory.limit: must be an integer, not a number with a fraction"),
        (lambda: Namespace("mnt"), "Namespace.type: 'mnt' is not one of cgroup, ipc, mount"),
        (lambda: Linux((Namespace("pid"), Namespace("pid"))), "Linux.namespaces[1]: pid is there already"),
        (lambda: Linux(sysctl={"a": "b"}), "Linux.sysctl: must be a FrozenMap, not dict"),
        (lambda: Linux(sysctl=FrozenMap({"a": 1})), "Linux.sysctl['a']: must be a string, not an integer"),
        (lambda: Linux(sysctl=FrozenMap({1: "a"})), "Linux.sysctl[1]: must be a string, not an integer"),
        (lambda: Hook("/a", timeout=0), "Hook.timeout: 0 is not between 1"),
        (lambda: Rdma(), "Rdma: needs hcaHandles or hcaObjects"),
        (lambda: attrs.evolve(typical(), hostname="a\0"), r"Spec.hostname: 'a\x00' contains a NUL byte"),
    ],
)
def test_what_can_never_work_is_refused_when_it_is_made(make: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_file_names_that_are_not_utf8_go_there_and_back() -> None:
    spec = Spec(root=Root(os.fsdecode(b"/srv/\xff")))
    assert os.fsencode(Spec.from_json(spec.to_json()).root.path) == b"/srv/\xff"  # type: ignore[union-attr]


def test_every_name_is_there_and_type_checkers_see_the_same_names() -> None:
    source = Path(pycontain.spec.__file__).read_text()
    block = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    static = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert sorted(static) == pycontain.spec.__all__ == dir(pycontain.spec)
    for name, module in static.items():
        assert getattr(pycontain.spec, name).__module__ == module
    with pytest.raises(AttributeError, match="has no attribute 'Colour'"):
        pycontain.spec.Colour  # noqa: B018


def test_importing_the_package_makes_no_class_and_the_usual_ones_do_not_make_the_rare_ones() -> None:
    program = (
        "import sys, pycontain.spec\n"
        "print(*sorted(m for m in sys.modules if m.startswith('pycontain.spec.')), sep=',')\n"
        "from pycontain.spec import Linux, Namespace, Process, Spec\n"
        "Spec(process=Process('/'), linux=Linux((Namespace('pid'),)))\n"
        "print(*sorted(m for m in sys.modules if m.startswith('pycontain.spec.')), sep=',')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    names = ("choices", "frozen", "kinds", "layout", "runtime")
    assert done.stdout.splitlines() == ["", ",".join(f"pycontain.spec.{name}" for name in names)]

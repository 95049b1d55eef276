"""Mount options are read by the words of the OCI runtime specification, and mean what the kernel makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolated import needs_root, run_python

from pycontain.errors import InvalidArgument, NotSupported
from pycontain.linux.mounts import MountAttr, MountFlag, MountOptions, parse_options

A = MountAttr
NONE = MountAttr(0)

# option: (attributes set, attributes cleared)
ATTRIBUTES = {
    "ro": (A.RDONLY, NONE),
    "rw": (NONE, A.RDONLY),
    "nosuid": (A.NOSUID, NONE),
    "suid": (NONE, A.NOSUID),
    "nodev": (A.NODEV, NONE),
    "dev": (NONE, A.NODEV),
    "noexec": (A.NOEXEC, NONE),
    "exec": (NONE, A.NOEXEC),
    "nodiratime": (A.NODIRATIME, NONE),
    "diratime": (NONE, A.NODIRATIME),
    "nosymfollow": (A.NOSYMFOLLOW, NONE),
    "symfollow": (NONE, A.NOSYMFOLLOW),
    "relatime": (NONE, A.ATIME),
    "noatime": (A.NOATIME, A.ATIME),
    "strictatime": (A.STRICTATIME, A.ATIME),
    "atime": (NONE, A.ATIME),
    "norelatime": (NONE, A.ATIME),
    "nostrictatime": (NONE, A.ATIME),
}
PROPAGATION = {
    "private": MountFlag.PRIVATE,
    "slave": MountFlag.SLAVE,
    "shared": MountFlag.SHARED,
    "unbindable": MountFlag.UNBINDABLE,
    "rprivate": MountFlag.PRIVATE | MountFlag.REC,
    "rslave": MountFlag.SLAVE | MountFlag.REC,
    "rshared": MountFlag.SHARED | MountFlag.REC,
    "runbindable": MountFlag.UNBINDABLE | MountFlag.REC,
}
PARAMETERS = ("sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand")
WITHOUT_EFFECT = ("defaults", "silent", "loud", "iversion", "noiversion")
WORDS = (*ATTRIBUTES, *("r" + word for word in ATTRIBUTES), *PROPAGATION, *PARAMETERS, *WITHOUT_EFFECT)


@pytest.mark.parametrize("word", ATTRIBUTES)
def test_a_word_sets_or_clears_an_attribute_of_the_mount_or_of_all_below(word: str) -> None:
    set_, clear = ATTRIBUTES[word]
    assert parse_options([word]) == MountOptions(attr_set=set_, attr_clr=clear)
    assert parse_options(["r" + word]) == MountOptions(recursive_set=set_, recursive_clr=clear)


@pytest.mark.parametrize("word", PROPAGATION)
def test_a_word_names_the_propagation(word: str) -> None:
    assert parse_options([word]) == MountOptions(propagation=PROPAGATION[word])


@pytest.mark.parametrize("word", PARAMETERS)
def test_flags_of_the_file_system_are_parameters(word: str) -> None:
    assert parse_options([word]) == MountOptions(data=(word,))


@pytest.mark.parametrize("word", WITHOUT_EFFECT)
def test_words_that_change_nothing_are_accepted(word: str) -> None:
    assert parse_options([word]) == MountOptions()


@pytest.mark.parametrize("option", ["idmap", "ridmap", "tmpcopyup", "idmap=uids=0-1-10"])
def test_what_is_not_supported_is_refused_by_name(option: str) -> None:
    with pytest.raises(NotSupported, match=option):
        parse_options(["ro", option])


@pytest.mark.parametrize("option", ["", "size=1\0"])
def test_what_is_no_option_is_refused(option: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a mount option"):
        parse_options([option])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["bind", "ro"], MountOptions(bind="bind", attr_set=A.RDONLY)),
        (["rbind", "rprivate", "rro"], MountOptions(
            bind="rbind", propagation=MountFlag.PRIVATE | MountFlag.REC, recursive_set=A.RDONLY)),
        (["remount", "bind"], MountOptions(remount=True, bind="bind")),
        (["nosuid", "strictatime", "mode=755", "size=65536k"], MountOptions(
            attr_set=A.NOSUID | A.STRICTATIME, attr_clr=A.ATIME, data=("mode=755", "size=65536k"))),
        (["ro", "rw"], MountOptions(attr_clr=A.RDONLY)),
        (["rw", "ro"], MountOptions(attr_set=A.RDONLY)),
        (["noatime", "strictatime"], MountOptions(attr_set=A.STRICTATIME, attr_clr=A.ATIME)),
        (["noatime", "atime"], MountOptions(attr_clr=A.ATIME)),
        (["strictatime", "atime"], MountOptions(attr_set=A.STRICTATIME, attr_clr=A.ATIME)),
        (["sync", "async"], MountOptions(data=("async",))),
        (["dirsync", "dirsync"], MountOptions(data=("dirsync", "dirsync"))),
        (["lazytime", "lazytime", "size=1m"], MountOptions(data=("lazytime", "size=1m"))),
        (["lowerdir=a", "rootcontext=x", "roo", "r"], MountOptions(data=("lowerdir=a", "rootcontext=x", "roo", "r"))),
    ],
)  # fmt: skip
def test_lists_of_options_mean(options: list[str], expected: MountOptions) -> None:
    assert parse_options(options) == expected


@given(st.lists(st.sampled_from(WORDS) | st.from_regex(r"[a-z_]{1,8}=[ -~]{0,9}", fullmatch=True)))
def test_no_attribute_is_both_set_and_cleared_except_in_the_field_of_access_times(options: list[str]) -> None:
    parsed = parse_options(options)
    for set_, clear in ((parsed.attr_set, parsed.attr_clr), (parsed.recursive_set, parsed.recursive_clr)):
        assert not set_ & clear & ~A.ATIME
        assert clear & A.ATIME in (NONE, A.ATIME)
        assert not set_ & A.ATIME or clear & A.ATIME
        assert set_ & A.ATIME in (NONE, A.NOATIME, A.STRICTATIME)
    assert [word for word in parsed.data if "=" in word] == [word for word in options if "=" in word]


@given(st.text(min_size=1))
def test_any_word_is_read_or_refused(option: str) -> None:
    try:
        parse_options([option])
    except (InvalidArgument, NotSupported):
        assert "\0" in option or option.startswith(("idmap", "ridmap", "tmpcopyup"))


@needs_root
def test_the_kernel_accepts_every_word_and_changes_what_it_says(tmp_path: Path) -> None:
    """Each word is applied to a new mount that has every attribute which the word clears; the mount table tells."""
    code = """
import os, sys
from pycontain.linux import mountinfo
from pycontain.linux.mounts import *
from pycontain.linux.namespaces import NamespaceType, unshare
unshare(NamespaceType.MOUNT)
mount(None, "/", None, MountFlag.PRIVATE | MountFlag.REC)
base = sys.argv[1]
for word in sys.argv[2:]:
    options = parse_options([word])
    context = fsopen("tmpfs")
    for key in options.data:
        fsconfig_set(context, key)
    fsconfig_create(context)
    cleared = (options.attr_clr | options.recursive_clr) & ~MountAttr.ATIME
    changes_atime = MountAttr.ATIME in options.attr_clr | options.recursive_clr
    other = MountAttr.NOATIME if "strict" in word else MountAttr.STRICTATIME
    tree = fsmount(context, cleared | other if changes_atime else cleared)
    empty = TreeFlag.EMPTY_PATH
    mount_setattr(tree, "", empty, options.attr_set, options.attr_clr, options.propagation & ~MountFlag.REC)
    mount_setattr(tree, "", empty | TreeFlag.RECURSIVE, options.recursive_set, options.recursive_clr)
    move_mount(tree, "", AT_FDCWD, base, MoveFlag.F_EMPTY_PATH)
    print(word, *[entry for entry in mountinfo.read() if entry.mount_point == base][0].options)
    os.close(context)
    os.close(tree)
    umount(base)
"""
    seen = {}
    for line in run_python(code, str(tmp_path), *WORDS).splitlines():
        word, *options = line.split(" ")
        seen[word] = set(options) - {"rw"}
    assert list(seen) == list(WORDS)
    for word, options in seen.items():
        name = word if word in ATTRIBUTES else word[1:]
        attributes, _ = ATTRIBUTES.get(name, (NONE, NONE))
        expected = {"relatime"} if not attributes & A.ATIME else set()
        if attributes and name != "strictatime":  # which is shown as the absence of the others
            expected.add(name)
        assert options == expected, word

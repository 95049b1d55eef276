"""What a container's processes may do to the kernel: capabilities, system calls, what is hidden, security labels.

The defaults (see `defaults`) are for programs that nobody trusts; each method here makes them tighter or looser.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from attrs import evolve, frozen

from pycontain.description import Description
from pycontain.errors import InvalidArgument
from pycontain.resolve import DEFAULT_PROFILE
from pycontain.runtimes.become import AVAILABLE
from pycontain.spec import Capabilities, FrozenMap

if TYPE_CHECKING:
    from typing_extensions import Self

    from pycontain.arguments import Path

IOClass = Literal["realtime", "best-effort", "idle"]


@frozen(repr=False, getstate_setstate=False)
class Hardened(Description):
    """See `Container`."""

    # ---- privileges

    def with_capabilities(self, add: Iterable[str] = (), drop: Iterable[str] = ()) -> Self:
        """Adds capabilities and takes others away, by name in any case, with or without `CAP_`; see capabilities(7).

        "all" is every capability: `drop=["all"], add=["NET_ADMIN"]` leaves one, `add=["all"]` gives all that the caller
        has itself (in a user namespace of its own: all). Only root has them; other users may gain them by programs.
        Raises `InvalidArgument` for a name that does not exist, and for one in both.
        """
        from pycontain.linux import capabilities as caps

        more, less = _capabilities(add, "add"), _capabilities(drop, "drop")
        both = more & less
        if both:
            raise InvalidArgument(f"{', '.join(sorted(both))}: both added and dropped")
        everything = frozenset(caps.NAMES)
        sets = self._process.capabilities
        have = everything if sets is None else frozenset(sets.bounding)
        if ALL in more:
            have = everything
        elif ALL in less:
            have = frozenset()
        names = (have | (more - {ALL})) - less
        ordered = tuple(name for name in caps.NAMES if name in names)
        sets = Capabilities(bounding=ordered, effective=ordered, permitted=ordered)
        changed = self._with_process(capabilities=sets)
        if ALL in more:
            annotations = FrozenMap({**self._spec.annotations, AVAILABLE: "true"})
            return changed._with(evolve(changed._spec, annotations=annotations))
        return changed

    def with_no_new_privileges(self, no_new_privileges: bool = True) -> Self:
        """Whether programs gain nothing when they are executed: no setuid, no file capabilities (the default).

        Without it `sudo`, `su` and `ping` work again for users inside. See PR_SET_NO_NEW_PRIVS in prctl(2).
        """
        return self._with_process(no_new_privileges=no_new_privileges)

    def with_privileged(self) -> Self:
        """Takes nearly every wall down: for programs that administer the machine, such as container tools and builders.

        All capabilities that the caller has, all devices of the host, no seccomp filter, nothing masked or read-only,
        setuid programs; `/sys`, `/proc/sys` and the cgroups are writable. What is left are its own
        namespaces and root. **Root inside can take over the host**, unless it has a user namespace (`with_userns`).
        """
        from pycontain.privileged import privileged

        opened = self.with_capabilities(add=[ALL]).with_seccomp("unconfined").with_no_new_privileges(False)
        return opened._with(privileged(opened._spec))

    # ---- system calls

    def with_seccomp(self, profile: Path | Mapping[str, Any]) -> Self:
        """Which system calls may be made: "default"; "unconfined", all; or a profile as in docker's and the OCI's form:
        the path of a file, which is read now, its JSON text, or that as a mapping.

        What a profile of docker's form includes and excludes by capabilities, machine and kernel is chosen when the
        container starts. Raises `SpecError` for what is not a profile, `InvalidArgument` for an unreadable file.
        """
        from pycontain.arguments import profile_text

        linux = self._linux
        named = linux if linux.seccomp is None else evolve(linux, seccomp=None)
        changed = self._with(evolve(self._spec, linux=named))
        if profile == "default":
            return evolve(changed, seccomp=DEFAULT_PROFILE)
        if profile == "unconfined":
            return evolve(changed, seccomp=None)
        return evolve(changed, seccomp=profile_text(profile))

    # ---- what is hidden

    def with_unmasked(self, *paths: str) -> Self:
        """Shows what is hidden in `/proc` and `/sys` by default, and makes writable what is read-only there.

        Without arguments all of it; otherwise only these paths, which have to be among them.
        """
        linux = self._linux
        hidden, guarded = linux.masked_paths, linux.readonly_paths
        for path in paths:
            if path not in hidden + guarded:
                known = ", ".join((*hidden, *guarded)) or "none"
                raise InvalidArgument(f"{path!r} is neither masked nor read-only", remedy=f"These are: {known}")
        return self._with_linux(
            masked_paths=tuple(path for path in hidden if paths and path not in paths),
            readonly_paths=tuple(path for path in guarded if paths and path not in paths),
        )

    def with_apparmor(self, profile: str) -> Self:
        """Runs it under a loaded AppArmor profile, "unconfined" for none; the caller's goes on without this.

        A machine without AppArmor makes the start fail with `NotSupported`.
        """
        if not isinstance(profile, str) or not profile:
            raise InvalidArgument(f"{profile!r} is not the name of an AppArmor profile")
        return self._with_process(apparmor_profile=profile)

    def with_selinux(self, label: str) -> Self:
        """Runs it with an SELinux context, `user:role:type:level`; the policy's choice for the caller without this.

        A machine without SELinux makes the start fail with `NotSupported`.
        """
        if not isinstance(label, str) or not all(label.split(":", 3)) or label.count(":") < 2:
            raise InvalidArgument(f"{label!r} is not an SELinux context", remedy="Write user:role:type or ...:level")
        return self._with_process(selinux_label=label)

    # ---- when the machine is short of something

    def with_oom_score_adj(self, score: int) -> Self:
        """How early its processes are killed when the machine is out of memory: -1000 (never) to 1000 (first).

        Less than the caller's own needs CAP_SYS_RESOURCE. See proc_pid_oom_score_adj(5).
        """
        if isinstance(score, bool) or not isinstance(score, int) or not -1000 <= score <= 1000:
            raise InvalidArgument(f"{score!r} is not an oom score adjustment: it must be from -1000 to 1000")
        return self._with_process(oom_score_adj=score)

    def with_io_priority(self, class_: IOClass, level: int = 4) -> Self:
        """The priority of its requests to block devices: a class, and in the first two a level from 0, the highest, to
        7. "realtime" needs CAP_SYS_NICE. Not all schedulers of requests know it: see ioprio_set(2)."""
        from pycontain.spec.tuning import IOPriority

        if class_ not in _IO_CLASSES:
            raise InvalidArgument(f"{class_!r} is not a class of I/O", remedy=f"Known: {', '.join(_IO_CLASSES)}")
        if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= 7:
            raise InvalidArgument(f"{level!r} is not a level of I/O priority: it must be from 0 to 7")
        return self._with_process(io_priority=IOPriority(_IO_CLASSES[class_], level))


ALL = "all"
_IO_CLASSES: Mapping[str, Any] = {
    "realtime": "IOPRIO_CLASS_RT", "best-effort": "IOPRIO_CLASS_BE", "idle": "IOPRIO_CLASS_IDLE",
}


def _capabilities(names: Iterable[str], what: str) -> frozenset[str]:
    from pycontain.linux import capabilities as caps

    if isinstance(names, str):
        raise InvalidArgument(f"{what}={names!r} is one name", remedy=f"Give a list: {what}=[{names!r}]")
    for name in (names := tuple(names)):
        if not isinstance(name, str):
            raise InvalidArgument(f"{name!r} is not the name of a capability")
    return frozenset(ALL if name.lower() == ALL else caps.NAMES[caps.parse(name)] for name in names)

"""The last part of a plan: the process becomes what its command is to find.

Privileges are dropped, descriptors are closed, and the seccomp filter comes last. The same for the first process
of a container and for one that is executed in it later.
"""

from __future__ import annotations

import os
import resource

from attrs import evolve

from pycontain.errors import NotSupported
from pycontain.linux import capabilities as caps
from pycontain.linux import plan as steps
from pycontain.linux.plan import Step
from pycontain.runtimes.obstacles import setgroups_denied
from pycontain.spec import Linux, Process, Rlimit, Spec
from pycontain.spec.runtime import RLIM_INFINITY

AVAILABLE = "org.pycontain.capabilities.available"  # of those that are listed, only what the caller has
FILTERING = "CAP_SYS_ADMIN"
IO_CLASSES = ("IOPRIO_CLASS_NONE", "IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")  # by their numbers


def all_that_are_there(spec: Spec) -> Spec:
    """The specification, in which all capabilities are all that the caller has: it cannot give more, and a container
    that is to have everything should start also from another. In a user namespace of its own they are all there."""
    sets = spec.process.capabilities if spec.process is not None else None
    namespaces = spec.linux.namespaces if spec.linux is not None else ()
    if spec.process is None or sets is None or AVAILABLE not in spec.annotations:
        return spec
    if any(namespace.type == "user" for namespace in namespaces):
        return spec
    own = frozenset(caps.from_mask(caps.of_process().permitted & (1 << len(caps.NAMES)) - 1))
    fields = ("bounding", "effective", "inheritable", "permitted", "ambient")
    kept = {name: tuple(cap for cap in getattr(sets, name) if cap in own) for name in fields}
    return evolve(spec, process=evolve(spec.process, capabilities=evolve(sets, **kept)))


def raised_limits(process: Process) -> list[Step]:
    """Hard limits above the caller's need privileges, and are set while there are some."""
    return [
        steps.rlimit(number, limit.hard, limit.hard, limit.type)
        for number, limit in _rlimits(process) if limit.hard > _own_hard_limit(number)
    ]


def drop_privileges(process: Process, *, keep_groups: bool) -> list[Step]:
    """From all capabilities to those of the process, and from the caller to its user.

    Without no_new_privs the kernel takes a seccomp filter only from who has CAP_SYS_ADMIN: it is kept until then.
    """
    user, sets = process.user, process.capabilities
    result = _io_priority(process)
    if sets is not None:
        result.append(steps.bounding(caps.to_mask(sets.bounding)))
    kept = 0 if process.no_new_privileges else caps.to_mask([FILTERING])
    keeps = sets is not None and bool(sets.permitted or kept) and user.uid != 0
    result.append(
        steps.identity(user.uid, user.gid, user.additional_gids, keep_caps=keeps, keep_groups=keep_groups)
    )
    if sets is not None:
        effective, permitted = caps.to_mask(sets.effective), caps.to_mask(sets.permitted)
        result.append(steps.capset(effective | kept, permitted | kept, caps.to_mask(sets.inheritable)))
        result.append(steps.ambient(caps.to_mask(sets.ambient)))
    if process.no_new_privileges:
        result.append(steps.no_new_privs())
    return result


def execute_command(spec: Spec, default_filter: bool, *, init: bool = False) -> list[Step]:
    """Everything else that belongs to the process itself, and the command; with `init` below the built-in init."""
    process, linux = spec.process or Process(cwd="/"), spec.linux or Linux()
    umask = process.user.umask
    return [
        steps.chdir(process.cwd),
        steps.umask(umask if umask is not None else 0o022),
        steps.default_signals(),
        steps.stdio(*(["terminal"] * 3 if process.terminal else ["stdin", "stdout", "stderr"])),
        steps.close_descriptors(),
        *([steps.keep("init-report")] if init else []),
        *_limits(process),
        *_filter(process, linux, default_filter),
        *_drop_the_last(process),
        steps.execute("init") if init else steps.execute(),
    ]


def keeps_groups(linux: Linux, new_user_namespace: bool) -> bool:
    """An unprivileged caller can map one group, its own, and must give up setgroups for it; and the user namespace of
    the caller may have been made like that, which those below it inherit (user_namespaces(7))."""
    single = len(linux.gid_mappings) == 1 and linux.gid_mappings[0].size == 1
    return (new_user_namespace and single and os.geteuid() != 0) or setgroups_denied()


def _limits(process: Process) -> list[Step]:
    """Set when no more descriptors are needed: their limit may be lower than the number of those that are open."""
    asked = [steps.rlimit(number, limit.soft, limit.hard, limit.type) for number, limit in _rlimits(process)]
    return [steps.default_soft_limits(), *asked]


def _rlimits(process: Process) -> list[tuple[int, Rlimit]]:
    numbers = []
    for limit in process.rlimits:
        number = getattr(resource, limit.type, None)
        if number is None:
            raise NotSupported(f"process.rlimits: {limit.type} is not known here")
        numbers.append((number, limit))
    return numbers


def _own_hard_limit(number: int) -> int:
    """The hard limit of a resource in this process, which its children have too."""
    hard = resource.getrlimit(number)[1]
    return RLIM_INFINITY if hard == resource.RLIM_INFINITY else hard


def _io_priority(process: Process) -> list[Step]:
    wanted = process.io_priority
    if wanted is None:
        return []
    return [steps.io_priority(IO_CLASSES.index(wanted.class_), wanted.priority, wanted.class_)]


def _drop_the_last(process: Process) -> list[Step]:
    """What `drop_privileges` had kept for the filter."""
    sets = process.capabilities
    if process.no_new_privileges or sets is None or FILTERING in sets.permitted:
        return []
    return [steps.capset(*(caps.to_mask(names) for names in (sets.effective, sets.permitted, sets.inheritable)))]


def _filter(process: Process, linux: Linux, default_filter: bool) -> list[Step]:
    from pycontain.linux import seccomp

    if linux.seccomp is not None:
        return [steps.seccomp(seccomp.compile(linux.seccomp), seccomp.filter_flags(linux.seccomp))]
    if not default_filter:
        return []
    sets = process.capabilities
    return [steps.seccomp(seccomp.default_filter(frozenset(sets.bounding if sets else caps.NAMES)))]

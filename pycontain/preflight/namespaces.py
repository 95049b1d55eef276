"""Each type of namespace, by making one; and how user namespaces can be made by whom."""

from __future__ import annotations

from collections.abc import Iterator

from pycontain.cgroups import Reason
from pycontain.linux import plan as steps
from pycontain.linux.mounts import MountFlag
from pycontain.linux.namespaces import NamespaceType
from pycontain.preflight.refusals import reason_of, try_both
from pycontain.preflight.report import Finding, no, partly, yes
from pycontain.runtimes import obstacles
from pycontain.runtimes.features import attempt

# Those of a container with nothing special, made by clone3; the cgroup namespace is unshared once the process is in
# its cgroup, and the time namespace because clone3 refuses it to a process with shared memory.
CLONED = ("mount", "pid", "network", "ipc", "uts")
UNSHARED = ("cgroup", "time")


def findings() -> Iterator[Finding]:
    for kind in CLONED:
        yield try_both(f"namespace: {kind}", [], NamespaceType.from_name(kind), required=True)
    for kind in UNSHARED:
        sequence = [steps.unshare(int(NamespaceType.from_name(kind)), kind)]
        yield try_both(f"namespace: {kind}", sequence, 0, required=kind == "cgroup")
    yield _user()
    yield _unprivileged()


def _user() -> Finding:
    """With the id map of one id, and used: AppArmor lets it be made but not be used."""
    sequence = [steps.propagation(MountFlag.PRIVATE, "private"), steps.hostname("preflight")]
    refused = attempt(sequence, NamespaceType.USER | NamespaceType.MOUNT | NamespaceType.UTS)
    if refused is None:
        return yes("namespace: user")
    reason = reason_of(refused, user_namespace=True)
    return no("namespace: user", reason)


def _unprivileged() -> Finding:
    """The settings, which hold for others even where this process does not feel them."""
    name = "unprivileged user namespaces"
    for setting in obstacles.SETTINGS:
        reason = setting()
        if reason:
            return no(name, reason)
    limit = obstacles.sysctl("user/max_user_namespaces")
    if limit:
        return yes(name, f"no setting forbids them; user.max_user_namespaces is {limit}")
    return partly(name, Reason("this kernel has none, or /proc/sys is not there", "Use a kernel with CONFIG_USER_NS"))

"""The peers: the command line of each for a program on the same root with the same isolation, as closely as it can.

What a peer cannot do counts in its favour: bubblewrap has no limits and masks nothing; bubblewrap, crun and runc mount
no overlay (their root is bound as it is). `start.py --isolation` prints what a program sees under each.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import CAPABILITIES, MEMORY_LIMIT, PIDS_LIMIT, UnavailableError, Workspace

from pycontain import defaults

# Of containers-common; crun, runc and podman compile it with libseccomp at every start, as they do for everybody.
SECCOMP_PROFILE = Path("/usr/share/containers/seccomp.json")
MOUNTS = [
    ("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
]


def bubblewrap(workspace: Workspace, program: Sequence[str]) -> list[str]:
    """Descriptor 3 is the seccomp filter. No user namespace, as root needs none."""
    command = [_path("bwrap"), "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup"]
    command += ["--as-pid-1", "--die-with-parent", "--new-session", "--hostname", "bwrap", "--clearenv"]
    command += ["--ro-bind", str(workspace.root), "/", "--proc", "/proc", "--dev", "/dev", "--mqueue", "/dev/mqueue"]
    command += ["--ro-bind", "/sys", "/sys", "--cap-drop", "ALL"]
    for capability in CAPABILITIES:
        command += ["--cap-add", capability]
    return [*command, "--seccomp", "3", "--", *program]


def oci(runtime: str, workspace: Workspace, program: Sequence[str]) -> list[str]:
    """A bundle for crun or runc, made for this program."""
    path = _path(runtime)
    bundle = workspace.base / f"{runtime}-{Path(program[0]).name}"
    bundle.mkdir(exist_ok=True)
    (bundle / "config.json").write_text(json.dumps(oci_config(runtime, workspace, program)))
    state = workspace.base / f"{runtime}-state"
    return [path, "--root", str(state), "run", "--bundle", str(bundle), f"{workspace.cgroup}-{runtime}"]


def podman(workspace: Workspace, program: Sequence[str]) -> list[str]:
    """With storage of its own; the resource limits are given because podman's defaults need CAP_SYS_RESOURCE."""
    storage = workspace.base / "podman"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    command = [_path("podman"), "--root", f"{storage}/root", "--runroot", f"{storage}/run"]
    command += ["--tmpdir", f"{storage}/tmp"]
    command += ["--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", _path("crun")]
    command += ["run", "--rm", "--network", "none", "--log-driver", "none", "--cgroupns", "private"]
    command += ["--memory", str(MEMORY_LIMIT), "--pids-limit", str(PIDS_LIMIT), "--cgroup-parent", workspace.cgroup]
    command += ["--ulimit", f"nofile={soft}:{hard}", "--ulimit", "nproc=32768:32768"]
    command += ["--security-opt", "no-new-privileges", "--cap-drop", "all"]
    for capability in CAPABILITIES:
        command += ["--cap-add", capability]
    return [*command, "--rootfs", f"{workspace.root}:O", *program]


def in_own_mounts(command: Sequence[str]) -> list[str]:
    """Runs the command in a mount namespace of its own, so that podman leaves no mount behind.

    There a hybrid host's v2 hierarchy is hidden: crun refuses it when it has a controller ("cgroups in hybrid mode not
    supported"), and without it takes the v1 hierarchies, where the limits are.
    """
    hide = 'mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh", *command]


def oci_config(runtime: str, workspace: Workspace, program: Sequence[str]) -> dict[str, Any]:
    """The OCI runtime specification of what the floor does."""
    sets = ("bounding", "effective", "permitted")
    return {
        "ociVersion": "1.0.2",
        "hostname": runtime,
        "root": {"path": str(workspace.root), "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(program),
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(sets, CAPABILITIES),
            "noNewPrivileges": True,
        },
        "mounts": [
            {"destination": destination, "type": kind, "source": source, "options": options}
            for destination, kind, source, options in MOUNTS
        ],
        "linux": {
            "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": defaults.MASKED_PATHS,
            "readonlyPaths": defaults.READONLY_PATHS,
            "cgroupsPath": f"/{workspace.cgroup}/{runtime}",
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}],  # the runtime adds the usual ones
                "memory": {"limit": MEMORY_LIMIT},
                "pids": {"limit": PIDS_LIMIT},
            },
            "seccomp": seccomp_profile(),
        },
    }


def seccomp_profile() -> dict[str, Any]:
    """The profile that podman uses, with the conditions of its format resolved for these capabilities."""
    if not SECCOMP_PROFILE.exists():
        raise UnavailableError(f"{SECCOMP_PROFILE} is missing: apt-get install golang-github-containers-common")
    profile = json.loads(SECCOMP_PROFILE.read_text())
    native = profile["archMap"][0]
    rules = []
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if not set(includes.get("caps", [])) <= set(CAPABILITIES) or set(excludes.get("caps", [])) & set(CAPABILITIES):
            continue
        if "amd64" not in includes.get("arches", ["amd64"]) or "amd64" in excludes.get("arches", []):
            continue
        rules.append({key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key) is not None})
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [native["architecture"], *native["subArchitectures"]],
        "syscalls": rules,
    }


def _path(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise UnavailableError("not installed")
    return os.path.realpath(path)

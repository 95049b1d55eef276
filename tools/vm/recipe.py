"""What the image consists of. Its name in the cache is the hash of all that is here and of the files in guest/."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

GUEST = Path(__file__).parent / "guest"

PACKAGES = [
    "busybox-static", "dbus", "dbus-user-session", "e2fsprogs", "iproute2", "kmod", "libpam-systemd", "procps",
    "python3", "python3-cffi-backend", "systemd", "systemd-sysv", "uidmap", "user-mode-linux", "util-linux",
]

USER, UID = "tester", 1000

# Files of guest/: where they go, and their modes.
INSTALLED = {
    "job": ("usr/local/sbin/vm-job", 0o755),
    "job.service": ("etc/systemd/system/vm-job.service", 0o644),
}

WRITTEN = {
    "etc/fstab": "",
    "etc/hostname": "vm\n",
    "etc/hosts": "127.0.0.1 localhost vm\n",
    "etc/machine-id": "7079636f6e7461696e2d746f6f6c7300\n",  # not made anew by each machine
    "etc/resolv.conf": "",
    "etc/subgid": f"{USER}:100000:65536\n",
    "etc/subuid": f"{USER}:100000:65536\n",
    "etc/systemd/journald.conf.d/vm.conf": "[Journal]\nStorage=volatile\n",
    "usr/lib/python3/dist-packages/shared.pth": "/packages\n",  # where Python packages may be shared to
}

# With the native backend the first ones would change the host; the others only take time.
MASKED_UNITS = [
    "systemd-remount-fs.service", "systemd-sysctl.service", "systemd-modules-load.service", "systemd-binfmt.service",
    "systemd-random-seed.service", "systemd-pstore.service", "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@drm.service", "modprobe@efi_pstore.service",
    "modprobe@fuse.service", "modprobe@loop.service",
    "apt-daily.timer", "apt-daily-upgrade.timer", "dev-hugepages.mount", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "getty.target", "systemd-firstboot.service", "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service", "systemd-journal-flush.service", "systemd-sysusers.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "tmp.mount",
]

DISK_SIZE = "4G"  # sparse


def key(release: str) -> str:
    """The name of the image of a Debian release."""
    texts = [(GUEST / name).read_text() for name in INSTALLED]
    recipe = [PACKAGES, USER, UID, INSTALLED, texts, WRITTEN, MASKED_UNITS, DISK_SIZE]
    return f"{release}-{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]}"

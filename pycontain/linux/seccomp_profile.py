"""The default seccomp profile, as data: what a container may call, by purpose, and what each capability adds.

It has the effect of docker's default profile and is stricter in a few places (`name_to_handle_at`, two ioctls). What
is named nowhere gets EPERM; numbers above the highest one named here, which are newer than this profile, get ENOSYS, so
that a C library falls back to an older call. Reasons for what is missing are in `DENIED`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pycontain.linux import syscall_numbers

if TYPE_CHECKING:
    from pycontain.spec import Seccomp, Syscall, SyscallArg
    from pycontain.spec.choices import SeccompOperator

#: Purpose to the calls that every container may make, with any arguments.
ALLOWED: Final[dict[str, str]] = {
    "open, read and write files": """
        open openat openat2 creat close close_range read write readv writev pread64 pwrite64 preadv pwritev preadv2
        pwritev2 lseek _llseek truncate truncate64 ftruncate ftruncate64 fallocate fsync fdatasync sync syncfs
        sync_file_range sync_file_range2 arm_sync_file_range readahead fadvise64 fadvise64_64 arm_fadvise64_64
        cachestat copy_file_range sendfile sendfile64 splice tee vmsplice fcntl fcntl64 flock dup dup2 dup3
        memfd_create memfd_secret""",
    "names, metadata and directories": """
        stat stat64 fstat fstat64 lstat lstat64 newfstatat fstatat64 statx statfs statfs64 fstatfs fstatfs64 access
        faccessat faccessat2 chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 fchownat lchown lchown32
        umask utime utimes utimensat utimensat_time64 futimesat link linkat symlink symlinkat readlink readlinkat
        unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir mknod mknodat getdents getdents64 chdir fchdir
        getcwd getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr llistxattr
        flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat""",
    # The same attributes, with the same permission checks, as the FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR ioctls.
    "file attributes": "file_getattr file_setattr",
    # Only what /proc/self/mountinfo shows: other mount namespaces need CAP_SYS_ADMIN.
    "the mount table of one's own mount namespace": "statmount listmount",
    "watch files": "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark",
    "wait for descriptors": """
        poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create epoll_create1 epoll_ctl
        epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd signalfd4 pipe
        pipe2""",
    "asynchronous input and output (not io_uring)": """
        io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64""",
    "memory": """
        brk mmap mmap2 munmap mremap mprotect madvise msync mincore mlock mlock2 mlockall munlock munlockall mseal
        remap_file_pages membarrier pkey_alloc pkey_free pkey_mprotect map_shadow_stack""",
    "processes and threads": """
        execve execveat exit exit_group fork vfork wait4 waitid waitpid getpid getppid gettid getpgid getpgrp setpgid
        getsid setsid set_tid_address kill tkill tgkill pidfd_open pidfd_send_signal process_mrelease prctl
        arch_prctl modify_ldt get_thread_area set_thread_area set_tls cacheflush breakpoint rseq getrlimit ugetrlimit
        setrlimit prlimit64 getrusage times""",
    # Of processes that one may trace anyway. Since Linux 4.8 a tracer cannot change a call after seccomp has seen it.
    "debug other processes of the container": "ptrace process_vm_readv process_vm_writev",
    # The kernel puts these into the code of a traced program: a refusal would break what an outside tracer looks at.
    "probes set from outside": "uprobe uretprobe",
    "locks of user space": """
        futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue get_robust_list set_robust_list""",
    "scheduling": """
        sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam
        sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval
        sched_rr_get_interval_time64 getpriority setpriority ioprio_get ioprio_set getcpu""",
    "signals": """
        rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
        rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn pause restart_syscall""",
    # adjtimex and clock_adjtime only read without CAP_SYS_TIME.
    "clocks and timers": """
        time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep
        clock_nanosleep_time64 nanosleep alarm adjtimex clock_adjtime clock_adjtime64 getitimer setitimer timer_create
        timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
        timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64""",
    "user and group ids, capabilities": """
        getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid
        getresgid32 getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32
        setresuid setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32
        capget capset""",
    # A filter cannot look behind the pointer of socketcall, so a 32-bit program reaches every family through it.
    "sockets (socket itself: see SOCKET_FAMILIES)": """
        socketcall socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt
        send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64""",
    "System V and POSIX communication": """
        ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget
        mq_open mq_unlink mq_notify mq_getsetattr mq_timedreceive mq_timedreceive_time64 mq_timedsend
        mq_timedsend_time64""",
    "confine oneself further": "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    "the system": "uname sysinfo getrandom",
}

#: Capability to the calls that it opens. A call may be opened by any of several.
BY_CAPABILITY: Final[dict[str, str]] = {
    "CAP_SYS_ADMIN": """
        clone clone3 unshare setns sethostname setdomainname mount umount umount2 pivot_root open_tree open_tree_attr
        move_mount mount_setattr fsopen fsconfig fsmount fspick fanotify_init quotactl quotactl_fd lookup_dcookie
        lsm_get_self_attr lsm_set_self_attr lsm_list_modules bpf perf_event_open syslog""",
    "CAP_DAC_READ_SEARCH": "name_to_handle_at open_by_handle_at",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "init_module finit_module delete_module",
    "CAP_SYS_NICE": "get_mempolicy set_mempolicy set_mempolicy_home_node mbind",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}

#: Reason to the calls that no capability opens. Not part of the profile: it names what the default answer is for.
DENIED: Final[dict[str, str]] = {
    "keyrings are not in a namespace": "add_key request_key keyctl",
    "its operations are not seen by any filter, and a history of exploits": """
        io_uring_setup io_uring_enter io_uring_register""",
    "lets user space stop the kernel in the middle of a call, which exploits build on": "userfaultfd",
    "replaces the running kernel": "kexec_load kexec_file_load",
    "swap is the host's": "swapon swapoff",
    "moves memory between nodes, for other processes too": "migrate_pages move_pages",
    "NFS server in the kernel, removed in Linux 3.1": "nfsservctl",
    "virtual 8086 mode": "vm86 vm86old",
    "names file systems of the kernel; obsolete": "sysfs ustat",
    "obsolete, and removed from the kernel or never there": """
        _sysctl afs_syscall bdflush break create_module ftime get_kernel_syms getpmsg gtty idle lock mpx prof profil
        putpmsg query_module security stty tuxcall ulimit uselib vserver""",
    "obsolete forms that no C library uses": """
        get_tls nice oldfstat oldlstat oldolduname oldstat olduname readdir sgetmask sigaction signal sigpending
        sigsuspend ssetmask usr26 usr32 pciconfig_iobase pciconfig_read pciconfig_write""",
}

#: clone(2) may make processes and threads, but no namespaces: each opens kernel code that is otherwise root's.
#: clone3 has its flags behind a pointer, where no filter sees them: ENOSYS sends the C library back to clone.
CLONE_NAMESPACES: Final = (
    0x00020000  # CLONE_NEWNS
    | 0x02000000  # CLONE_NEWCGROUP
    | 0x04000000  # CLONE_NEWUTS
    | 0x08000000  # CLONE_NEWIPC
    | 0x10000000  # CLONE_NEWUSER
    | 0x20000000  # CLONE_NEWPID
    | 0x40000000  # CLONE_NEWNET
)

#: personality(2): PER_LINUX and PER_LINUX32, each also with UNAME26, and 0xffffffff which only asks. Others turn off
#: protections (ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, MMAP_PAGE_ZERO).
PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

#: Put characters into the input of a terminal which the container may share with its caller (TIOCSTI), or drive the
#: console (TIOCLINUX): the way out of a container that is started from a shell.
DENIED_IOCTLS: Final = (0x5412, 0x541C)

#: socket(2): families below this number, and those of the list. Missing are AF_ALG (38: the kernel's cryptography, a
#: history of exploits), AF_VSOCK (40: reaches the hypervisor and other guests from any network namespace), and those
#: that Linux has removed or is removing: DECnet, ECONET, ATMSVC, IRDA, WANPIPE, ISDN, CAIF.
SOCKET_FAMILIES_BELOW: Final = 12
SOCKET_FAMILIES: Final = (
    13, 14, 15, 16, 17, 18,  # NETBEUI SECURITY KEY NETLINK PACKET ASH
    21, 22, 24, 26, 27, 28,  # RDS SNA PPPOX LLC IB MPLS
    29, 30, 31, 32, 33, 35,  # CAN TIPC BLUETOOTH IUCV RXRPC PHONET
    36, 39, 41, 42, 43, 44, 45,  # IEEE802154 NFC KCM QIPCRTR SMC XDP MCTP
)  # fmt: skip


JOIN_SESSION_KEYRING: Final = 1  # KEYCTL_*; without a name it is a new one


def build(capabilities: frozenset[str], machine: str) -> Seccomp:
    """The default profile for these capabilities on a machine (a key of `syscall_numbers.MACHINES`)."""
    from pycontain.spec import Seccomp, Syscall

    rules = [Syscall(names=tuple(names.split()), action="SCMP_ACT_ALLOW") for names in ALLOWED.values()]
    for capability, names in BY_CAPABILITY.items():
        if capability in capabilities:
            rules.append(Syscall(names=tuple(names.split()), action="SCMP_ACT_ALLOW"))
    if "CAP_SYS_ADMIN" in capabilities:  # a container in it leaves its keyring for a new one, which gives it nothing
        join = (_compare(0, "SCMP_CMP_EQ", JOIN_SESSION_KEYRING), _compare(1, "SCMP_CMP_EQ", 0))
        rules.append(Syscall(names=("keyctl",), action="SCMP_ACT_ALLOW", args=join))
    else:
        rules += _allow("clone", _masked_equal(0, CLONE_NAMESPACES, 0))
        rules.append(Syscall(names=("clone3",), action="SCMP_ACT_ERRNO", errno_ret=errno.ENOSYS))
    rules += _allow("personality", *(_compare(0, "SCMP_CMP_EQ", value) for value in PERSONALITIES))
    rules += _allow("socket", _compare(0, "SCMP_CMP_LT", SOCKET_FAMILIES_BELOW))
    rules += _allow("socket", *(_compare(0, "SCMP_CMP_EQ", family) for family in SOCKET_FAMILIES))
    rules += _allow("ioctl", *_all_but(1, DENIED_IOCTLS))
    return Seccomp(
        default_action="SCMP_ACT_ERRNO",
        default_errno_ret=errno.EPERM,
        architectures=tuple(abi.scmp for abi in syscall_numbers.MACHINES[machine]),
        syscalls=tuple(rules),
    )


def _allow(name: str, *conditions: SyscallArg) -> Iterable[Syscall]:
    """Allows a call if any of the conditions holds: one rule for each, as those of one rule must all hold."""
    from pycontain.spec import Syscall

    return [Syscall(names=(name,), action="SCMP_ACT_ALLOW", args=(condition,)) for condition in conditions]


def _compare(index: int, operator: SeccompOperator, value: int) -> SyscallArg:
    from pycontain.spec import SyscallArg

    return SyscallArg(index=index, value=value, op=operator)


def _masked_equal(index: int, mask: int, value: int) -> SyscallArg:
    from pycontain.spec import SyscallArg

    return SyscallArg(index=index, value=mask, value_two=value, op="SCMP_CMP_MASKED_EQ")


def _all_but(index: int, denied: tuple[int, ...]) -> Iterable[SyscallArg]:
    """Conditions of which one holds for each 32-bit argument except these.

    The kernel ignores the upper half of such an argument and a filter sees it, so that a plain comparison lets a denied
    value through with a bit set there (CVE-2019-10063). The specification has no masked 'not equal', so this says in
    masked 'equal': a bit is set that no denied value has, or one is clear that all have, or the rest is another value.
    """
    some = every = denied[0]
    for value in denied:
        some |= value
        every &= value
    bits = [1 << number for number in range(32)]
    yield from (_masked_equal(index, bit, bit) for bit in bits if not bit & some)
    yield from (_masked_equal(index, bit, 0) for bit in bits if bit & every)
    differing = some & ~every
    part = differing
    while True:  # every subset of the differing bits
        if every | part not in denied:
            yield _masked_equal(index, 0xFFFFFFFF, every | part)
        if not part:
            return
        part = (part - 1) & differing

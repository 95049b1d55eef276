/* System calls for Python (see bindings.h). Called from ordinary Python threads, one call each, without policy. */

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030a0000
#endif
#include <Python.h>

#include <linux/capability.h>
#include <linux/nsfs.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "bindings.h"
#include "sys.h"

/* Names that the headers of an older build machine lack; the numbers are the same on all architectures. */
#ifndef __NR_pidfd_send_signal
#define __NR_pidfd_send_signal 424
#endif
#ifndef __NR_fspick
#define __NR_fspick 433
#endif
#ifndef __NR_pidfd_open
#define __NR_pidfd_open 434
#endif
#ifndef __NR_pidfd_getfd
#define __NR_pidfd_getfd 438
#endif
#ifndef NS_GET_OWNER_UID /* Linux 4.11 */
#define NS_GET_OWNER_UID _IO(NSIO, 0x4)
#endif

#define PC_P_PIDFD 3
#define PC_CLONE_CHILD_CLEARTID 0x00200000
#define PC_CLONE_CHILD_SETTID 0x01000000
#define PC_KEYCTL_JOIN_SESSION_KEYRING 1

long pc_unshare(unsigned long flags)
{
    return PC_CALL(unshare, flags);
}

long pc_setns(int fd, int type)
{
    return PC_CALL(setns, fd, type);
}

struct pc_clone_args { /* struct clone_args of Linux 5.3 */
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};

static long pc_clone3(uint64_t namespaces)
{
    struct pc_clone_args args = { .flags = namespaces, .exit_signal = SIGCHLD };
#ifdef __GLIBC__
    /* As glibc's fork does: the thread's record of its own tid, whose address the kernel knows, becomes the child's.
     * (musl registers the address of a lock there.) */
    uint64_t tid_address = 0;
    if (PC_CALL(prctl, PR_GET_TID_ADDRESS, &tid_address) == 0 && tid_address != 0) {
        args.flags |= PC_CLONE_CHILD_SETTID | PC_CLONE_CHILD_CLEARTID;
        args.child_tid = tid_address;
    }
#endif
    return PC_CALL(clone3, &args, sizeof args);
}

long pc_fork(unsigned long long namespaces)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyOS_BeforeFork();
    long pid = pc_clone3(namespaces);
    if (pid == 0)
        PyOS_AfterFork_Child();
    else
        PyOS_AfterFork_Parent();
    PyGILState_Release(state);
    return pid;
}

long pc_ns_userns(int fd)
{
    return PC_CALL(ioctl, fd, NS_GET_USERNS);
}

long pc_ns_parent(int fd)
{
    return PC_CALL(ioctl, fd, NS_GET_PARENT);
}

long pc_ns_type(int fd)
{
    return PC_CALL(ioctl, fd, NS_GET_NSTYPE);
}

long long pc_ns_owner_uid(int fd)
{
    uint32_t uid = 0;
    long result = PC_CALL(ioctl, fd, NS_GET_OWNER_UID, &uid);
    return result < 0 ? result : (long long)uid;
}

long pc_sethostname(const char *name, size_t length)
{
    return PC_CALL(sethostname, name, length);
}

long pc_setdomainname(const char *name, size_t length)
{
    return PC_CALL(setdomainname, name, length);
}

long pc_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
    return PC_CALL(mount, source, target, type, flags, data);
}

long pc_umount2(const char *target, int flags)
{
    return PC_CALL(umount2, target, flags);
}

long pc_pivot_root(const char *new_root, const char *put_old)
{
    return PC_CALL(pivot_root, new_root, put_old);
}

long pc_open_tree(int dirfd, const char *path, unsigned int flags)
{
    return PC_CALL(open_tree, dirfd, path, flags);
}

long pc_move_mount(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned int flags)
{
    return PC_CALL(move_mount, from_dirfd, from, to_dirfd, to, flags);
}

long pc_fsopen(const char *type, unsigned int flags)
{
    return PC_CALL(fsopen, type, flags);
}

long pc_fspick(int dirfd, const char *path, unsigned int flags)
{
    return PC_CALL(fspick, dirfd, path, flags);
}

long pc_fsconfig(int context, unsigned int command, const char *key, const char *value, int aux)
{
    return PC_CALL(fsconfig, context, command, key, value, aux);
}

long pc_fsmount(int context, unsigned int flags, unsigned int attributes)
{
    return PC_CALL(fsmount, context, flags, attributes);
}

long pc_mount_setattr(int dirfd, const char *path, unsigned int flags, unsigned long long set,
                      unsigned long long clear, unsigned long long propagation, unsigned long long userns_fd)
{
    struct { uint64_t set, clear, propagation, userns_fd; } attr = { set, clear, propagation, userns_fd };
    return PC_CALL(mount_setattr, dirfd, path, flags, &attr, sizeof attr);
}

long pc_openat2(int dirfd, const char *path, unsigned long long flags, unsigned long long mode,
                unsigned long long resolve)
{
    struct { uint64_t flags, mode, resolve; } how = { flags, mode, resolve };
    return PC_CALL(openat2, dirfd, path, &how, sizeof how);
}

long pc_close_range(unsigned int first, unsigned int last, unsigned int flags)
{
    return PC_CALL(close_range, first, last, flags);
}

long pc_pidfd_open(int pid, unsigned int flags)
{
    return PC_CALL(pidfd_open, pid, flags);
}

long pc_pidfd_send_signal(int pidfd, int signal)
{
    return PC_CALL(pidfd_send_signal, pidfd, signal, NULL, 0);
}

long pc_pidfd_getfd(int pidfd, int fd)
{
    return PC_CALL(pidfd_getfd, pidfd, fd, 0);
}

static long long pc_microseconds(struct timeval time)
{
    return (long long)time.tv_sec * 1000000 + time.tv_usec;
}

long pc_wait(int pidfd, int options, struct pc_ended *ended)
{
    siginfo_t info = { 0 };
    struct rusage usage = { 0 }; /* only the system call fills it, waitid of libc has no such argument */
    long result = PC_CALL(waitid, PC_P_PIDFD, pidfd, &info, options, &usage);
    if (result < 0)
        return result;
    ended->pid = info.si_pid;
    ended->code = info.si_code;
    ended->status = info.si_status;
    ended->user_us = pc_microseconds(usage.ru_utime);
    ended->system_us = pc_microseconds(usage.ru_stime);
    ended->max_rss_kb = usage.ru_maxrss;
    return 0;
}

long pc_capset(const struct pc_capability_sets *sets)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3, .pid = 0 };
    struct __user_cap_data_struct data[2] = {
        { (uint32_t)sets->effective, (uint32_t)sets->permitted, (uint32_t)sets->inheritable },
        { (uint32_t)(sets->effective >> 32), (uint32_t)(sets->permitted >> 32), (uint32_t)(sets->inheritable >> 32) },
    };
    return PC_CALL(capset, &header, data);
}

long pc_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
    return PC_CALL(prctl, option, a, b, c, d);
}

long pc_join_session_keyring(const char *name)
{
    return PC_CALL(keyctl, PC_KEYCTL_JOIN_SESSION_KEYRING, name);
}

long pc_bpf(int command, void *attributes, unsigned int size)
{
    return PC_CALL(bpf, command, attributes, size);
}

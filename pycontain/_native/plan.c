/* The plan executor. The order of the functions is the order of enum pc_op. */

#include "plan.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/filter.h>
#include <linux/stat.h>

#include "sys.h"

#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef MOUNT_ATTR_RDONLY
#error "the kernel headers are older than Linux 5.12"
#endif
#define MS_REC 16384
#define MNT_DETACH 2
#define INSIDE (RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
#define PATH_SIZE 4096
#define TYPE 0170000 /* S_IFMT and others, which linux/stat.h hides from programs with a libc */
#define REGULAR 0100000
#define DIRECTORY 0040000
#define CHARACTER 0020000
#define ATTEMPTS 128 /* openat2 answers EAGAIN when a rename goes on elsewhere: bounded */

/* Like PC_CALL, and notes which call it was, for the error message. */
#define CALL(x, name, ...) ((x)->context->syscall = __NR_##name, PC_CALL(name, __VA_ARGS__))

typedef const struct pc_execution exec_t;
typedef const struct pc_step step_t;

/* ---- the buffer ------------------------------------------------------------------------------------------------ */

static const struct pc_step *steps_of(const struct pc_plan *plan)
{
    return (const struct pc_step *)(plan + 1);
}

static int valid_slot(int32_t slot)
{
    return slot >= -1 && slot < PC_SLOTS;
}

/* Number of strings, each ended by 0, that begin in [offset, end); the byte before end is 0. */
static int has_strings(const char *base, uint64_t offset, uint64_t end, uint64_t count)
{
    for (; count; count--) {
        while (offset < end && base[offset])
            offset++;
        if (offset++ >= end)
            return 0;
    }
    return 1;
}

static int valid_step(const struct pc_plan *plan, step_t *s)
{
    const char *base = (const char *)plan;
    uint64_t data = sizeof *plan + (uint64_t)plan->steps * sizeof *s;

    if (!s->op || s->op >= PC_OPS || !valid_slot(s->fd) || !valid_slot(s->fd2) || !valid_slot(s->out))
        return 0;
    if ((s->s1 && (s->s1 < data || s->s1 >= plan->size)) || (s->s2 && (s->s2 < data || s->s2 >= plan->size)))
        return 0;
    if (s->len && (!s->s2 || s->len > plan->size - s->s2))
        return 0;
    switch (s->op) {
    case PC_OPEN:
    case PC_TREE:
    case PC_TERMINAL:
        return s->out >= 0;
    case PC_FSMOUNT:
        return s->out >= 0 && (!s->n3 || (s->s2 && s->n3 < 512 && has_strings(base, s->s2, plan->size, 2 * s->n3)));
    case PC_OVERLAY:
        if (s->out < 0 || !s->s1 || !s->s2)
            return 0;
        /* fall through */
    case PC_ENTER:
        return s->fd2 >= 0 && s->n2 && s->n2 < PC_SLOTS && (uint64_t)s->fd2 + s->n2 <= PC_SLOTS;
    case PC_STDIO:
        return s->n1 < PC_SLOTS && s->n2 < PC_SLOTS && s->n3 < PC_SLOTS;
    case PC_SECCOMP:
        return s->len % sizeof(struct sock_filter) == 0 && s->len / sizeof(struct sock_filter) <= 4096;
    case PC_IDENTITY: /* the kernel takes 2^32-1 for "unchanged", and cuts off what is above */
        return s->n1 < UINT32_MAX && s->n2 < UINT32_MAX && s->len % sizeof(uint32_t) == 0;
    default:
        return 1;
    }
}

int pc_check_plan(const void *buffer, size_t size)
{
    const struct pc_plan *plan = buffer;

    if ((uintptr_t)buffer % _Alignof(struct pc_step) || size < sizeof *plan + 1 || plan->magic != PC_PLAN_MAGIC || plan->size != size || ((const char *)buffer)[size - 1])
        return -EINVAL;
    if (plan->steps > (size - sizeof *plan) / sizeof(struct pc_step))
        return -EINVAL;
    for (uint32_t i = 0; i < plan->steps; i++)
        if (!valid_step(plan, steps_of(plan) + i))
            return -EINVAL;
    return 0;
}

int pc_check_command(const void *buffer, size_t size)
{
    const struct pc_command *command = buffer;

    if ((uintptr_t)buffer % _Alignof(struct pc_command) || size < sizeof *command + 1 || command->magic != PC_COMMAND_MAGIC || command->size != size
        || ((const char *)buffer)[size - 1] || !command->argc)
        return -EINVAL;
    if (!has_strings(buffer, sizeof *command, size, (uint64_t)command->argc + command->envc + command->candidates))
        return -EINVAL;
    return 0;
}

static const char *text(exec_t *x, uint32_t offset)
{
    return offset ? (const char *)x->plan + offset : "";
}

static const char *next(const char *string)
{
    while (*string)
        string++;
    return string + 1;
}

/* A slot's descriptor. The empty slot gives -1, which the kernel refuses, and never AT_FDCWD. */
static int fd_of(exec_t *x, int64_t slot)
{
    return slot < 0 ? -1 : x->context->fds[slot];
}

static int dir_of(exec_t *x, int64_t slot)
{
    return slot < 0 ? AT_FDCWD : x->context->fds[slot];
}

static long store(exec_t *x, int32_t slot, long fd)
{
    if (fd >= 0 && slot >= 0)
        x->context->fds[slot] = (int32_t)fd;
    return fd < 0 ? fd : 0;
}

static char *append(char *to, char *end, const char *from)
{
    while (*from && to < end)
        *to++ = *from++;
    *to = 0;
    return to;
}

/* ---- paths inside a root ---------------------------------------------------------------------------------------- */

static long open_at(exec_t *x, int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
    struct open_how how = { .flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve };
    long fd = -EAGAIN;

    for (int i = 0; i < ATTEMPTS && fd == -EAGAIN; i++)
        fd = CALL(x, openat2, dir, path, &how, sizeof how);
    return fd;
}

static int only_slashes(const char *text)
{
    while (*text == '/')
        text++;
    return !*text;
}

/* Makes the last component of `path` (a directory, or an empty file) below `parent`, a directory inside the root. */
static long make_entry(exec_t *x, int parent, const char *name, int directory, uint64_t mode)
{
    long ret;

    if (directory)
        ret = CALL(x, mkdirat, parent, name, mode);
    else
        ret = CALL(x, mknodat, parent, name, REGULAR | mode, 0);
    return ret == -EEXIST ? 0 : ret;
}

/* Creates `path` inside the root like `mkdir -p`, its last component as a file if asked. Each prefix is opened anew
 * from the root with openat2, so that a symbolic link that the image planted leads inside or nowhere. */
static long make_path(exec_t *x, int root, const char *path, int directory, uint64_t mode)
{
    char prefix[PATH_SIZE], *name = prefix, *end, after;
    long parent, ret = 0;

    if (append(prefix, prefix + sizeof prefix - 1, path) == prefix + sizeof prefix - 1)
        return -ENAMETOOLONG;
    parent = CALL(x, openat, root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0)
        return parent;
    do {
        while (*name == '/')
            name++;
        for (end = name; *end && *end != '/'; end++)
            ;
        after = *end;
        *end = 0;
        long found = open_at(x, root, prefix, O_PATH, 0, INSIDE);
        if (found == -ENOENT) {
            int last = !after || only_slashes(end + 1);
            ret = make_entry(x, (int)parent, name, !last || directory, last ? mode : 0755);
            if (ret == 0)
                found = open_at(x, root, prefix, O_PATH, 0, INSIDE);
        }
        PC_CALL(close, parent);
        if (ret < 0 || found < 0)
            return ret < 0 ? ret : found;
        parent = found;
        *end = after;
        name = end;
    } while (after && !only_slashes(end));
    PC_CALL(close, parent);
    return 0;
}

static long is_directory(exec_t *x, int fd)
{
    struct statx st;
    long ret = CALL(x, statx, fd, "", AT_EMPTY_PATH, STATX_TYPE, &st);

    return ret < 0 ? ret : (st.stx_mode & TYPE) == DIRECTORY;
}

/* ---- operations --------------------------------------------------------------------------------------------------- */

static long op_await(exec_t *x, step_t *s)
{
    struct { int fd; short events, revents; } owner = { fd_of(x, s->fd), 1 /* POLLIN */, 0 };
    struct { int64_t sec, nsec; } now = { 0, 0 };

    while (!__atomic_load_n(&x->context->go, __ATOMIC_ACQUIRE)) {
        pc_futex_wait(&x->context->go, 0, 50);
        owner.revents = 0;
        if (CALL(x, ppoll, &owner, 1, &now, NULL, 8) > 0)
            return -EOWNERDEAD;
    }
    return 0;
}

static long write_all(exec_t *x, int fd, const char *data, size_t length)
{
    while (length) {
        long done = CALL(x, write, fd, data, length);
        if (done <= 0)
            return done ? done : -EIO;
        data += done;
        length -= (size_t)done;
    }
    return 0;
}

static long op_enter(exec_t *x, step_t *s)
{
    long ret = 0;

    for (int64_t i = 0; i < (int64_t)s->n2 && ret == 0; i++)
        if (fd_of(x, s->fd2 + i) >= 0)
            ret = write_all(x, fd_of(x, s->fd2 + i), "0", 1);
    return ret;
}

static long op_write_file(exec_t *x, step_t *s)
{
    long fd = open_at(x, dir_of(x, s->fd), text(x, s->s1), s->n1, 0, s->n2), ret;

    if (fd < 0)
        return fd;
    ret = write_all(x, (int)fd, text(x, s->s2), s->len);
    PC_CALL(close, fd);
    return ret;
}

/* With PC_NULL_DEVICE, nothing but the null device: an image may have put a link to something else in its place, which
 * would then be mounted, writable, over what is to be masked (CVE-2025-31133). */
static long op_open(exec_t *x, step_t *s)
{
    struct statx st;
    long fd = open_at(x, dir_of(x, s->fd), text(x, s->s1), s->n1, 0, s->n2), ret;

    if (fd >= 0 && s->flags & PC_NULL_DEVICE) {
        ret = CALL(x, statx, fd, "", AT_EMPTY_PATH, STATX_TYPE, &st);
        if (ret == 0 && ((st.stx_mode & TYPE) != CHARACTER || st.stx_rdev_major != 1 || st.stx_rdev_minor != 3))
            ret = -ENODEV;
        if (ret < 0) {
            PC_CALL(close, fd);
            return ret;
        }
    }
    return store(x, s->out, fd);
}

static long op_propagation(exec_t *x, step_t *s)
{
    return CALL(x, mount, NULL, "/", NULL, s->n1 | MS_REC, NULL);
}

static long clone_tree(exec_t *x, int fd, int recursive)
{
    return CALL(x, open_tree, fd, "", AT_EMPTY_PATH | OPEN_TREE_CLOEXEC | OPEN_TREE_CLONE | (recursive ? AT_RECURSIVE : 0));
}

/* The source is opened first, so that RESOLVE_* can be used: open_tree itself has no such flags. */
static long op_tree(exec_t *x, step_t *s)
{
    long fd, tree;

    if (!s->s1)
        return store(x, s->out, clone_tree(x, fd_of(x, s->fd), s->flags & PC_RECURSIVE));
    fd = open_at(x, dir_of(x, s->fd), text(x, s->s1), O_PATH, 0, s->n2);
    if (fd < 0)
        return fd;
    tree = clone_tree(x, (int)fd, s->flags & PC_RECURSIVE);
    PC_CALL(close, fd);
    return store(x, s->out, tree);
}

static long set_option(exec_t *x, int fs, const char *key, const char *value)
{
    if (!*value)
        return CALL(x, fsconfig, fs, FSCONFIG_SET_FLAG, key, NULL, 0);
    return CALL(x, fsconfig, fs, FSCONFIG_SET_STRING, key, value, 0);
}

/* Creates the configured file system and turns it into a detached mount. */
static long finish_fs(exec_t *x, step_t *s, int fs, uint64_t attributes)
{
    long ret = CALL(x, fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);

    if (ret == 0)
        ret = store(x, s->out, CALL(x, fsmount, fs, FSMOUNT_CLOEXEC, attributes));
    return ret;
}

static long op_fsmount(exec_t *x, step_t *s)
{
    long fs = CALL(x, fsopen, text(x, s->s1), FSOPEN_CLOEXEC), ret = 0;
    const char *key = text(x, s->s2);

    if (fs < 0)
        return fs;
    for (uint64_t i = 0; i < s->n3 && ret == 0; i++) {
        const char *value = next(key);
        ret = set_option(x, (int)fs, key, value);
        key = next(value);
    }
    if (ret == 0)
        ret = finish_fs(x, s, (int)fs, s->n1);
    PC_CALL(close, fs);
    return ret;
}

static char *append_number(char *to, char *end, unsigned number)
{
    char digits[12], *p = digits + sizeof digits - 1;

    *p = 0;
    do
        *--p = (char)('0' + number % 10);
    while (number /= 10);
    return append(to, end, p);
}

/* overlayfs takes its layers as path names: those of the open descriptors, which no one can swap meanwhile. */
static long layer_option(exec_t *x, int fs, const char *key, int fd, const char *below)
{
    char path[256], *end = path + sizeof path - 1, *p; /* what fsconfig takes at most, with the final 0 */

    p = append(path, end, "/proc/self/fd/");
    p = append_number(p, end, (unsigned)fd);
    if (*below && append(append(p, end, "/"), end, below) == end)
        return -ENAMETOOLONG;
    return CALL(x, fsconfig, fs, FSCONFIG_SET_STRING, key, path, 0);
}

static long op_overlay(exec_t *x, step_t *s)
{
    long fs = CALL(x, fsopen, "overlay", FSOPEN_CLOEXEC), ret = 0;
    /* "lowerdir+" exists since 6.7; one layer needs no list */
    const char *lower = s->n2 > 1 ? "lowerdir+" : "lowerdir";

    if (fs < 0)
        return fs;
    for (uint64_t i = 0; i < s->n2 && ret == 0; i++)
        ret = layer_option(x, (int)fs, lower, fd_of(x, s->fd2 + (int64_t)i), "");
    if (ret == 0)
        ret = layer_option(x, (int)fs, "upperdir", fd_of(x, s->fd), text(x, s->s1));
    if (ret == 0)
        ret = layer_option(x, (int)fs, "workdir", fd_of(x, s->fd), text(x, s->s2));
    if (ret == 0 && s->flags & PC_USERXATTR)
        ret = set_option(x, (int)fs, "userxattr", "");
    if (ret == 0 && s->flags & PC_VOLATILE)
        ret = set_option(x, (int)fs, "volatile", "");
    if (ret == 0)
        ret = finish_fs(x, s, (int)fs, s->n1);
    PC_CALL(close, fs);
    return ret;
}

static long set_attributes(exec_t *x, int fd, uint64_t set, uint64_t clear, uint64_t propagation, int recursive)
{
    struct mount_attr attr = { .attr_set = set, .attr_clr = clear, .propagation = propagation };

    return CALL(x, mount_setattr, fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof attr);
}

static long op_setattr(exec_t *x, step_t *s)
{
    return set_attributes(x, fd_of(x, s->fd), s->n1, s->n2, s->n3, s->flags & PC_RECURSIVE);
}

static long move_onto(exec_t *x, int mount, int target)
{
    return CALL(x, move_mount, mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static long op_attach(exec_t *x, step_t *s)
{
    int mount = fd_of(x, s->fd), root = dir_of(x, s->fd2);
    uint64_t resolve = s->fd2 < 0 ? 0 : INSIDE;
    const char *path = text(x, s->s1);
    long target = open_at(x, root, path, O_PATH, 0, resolve), ret;

    if (target == -ENOENT && s->fd2 >= 0) {
        long directory = is_directory(x, mount);
        ret = directory < 0 ? directory : make_path(x, root, path, (int)directory, directory ? 0755 : 0644);
        if (ret < 0)
            return ret;
        target = open_at(x, root, path, O_PATH, 0, resolve);
    }
    if (target < 0)
        return target;
    ret = move_onto(x, mount, (int)target);
    PC_CALL(close, target);
    return ret;
}

/* Clones what is at `source` over `target`, a directory read-only. */
static long cover(exec_t *x, int source, int target, int directory)
{
    long tree = clone_tree(x, source, 0), ret = 0;

    if (tree < 0)
        return tree;
    if (directory)
        ret = set_attributes(x, (int)tree, MOUNT_ATTR_RDONLY, 0, 0, 0);
    if (ret == 0)
        ret = move_onto(x, (int)tree, target);
    PC_CALL(close, tree);
    return ret;
}

static long op_mask(exec_t *x, step_t *s)
{
    long target = open_at(x, fd_of(x, s->fd), text(x, s->s1), O_PATH, 0, INSIDE), directory, ret;

    if (target < 0) /* what this kernel does not have needs no mask */
        return target == -ENOENT || target == -ENOTDIR ? 0 : target;
    directory = is_directory(x, (int)target);
    ret = directory < 0 ? directory : cover(x, fd_of(x, directory ? s->out : s->fd2), (int)target, (int)directory);
    PC_CALL(close, target);
    return ret;
}

static long op_readonly(exec_t *x, step_t *s)
{
    long target = open_at(x, fd_of(x, s->fd), text(x, s->s1), O_PATH, 0, INSIDE), tree, ret;

    if (target < 0)
        return target == -ENOENT || target == -ENOTDIR ? 0 : target;
    tree = clone_tree(x, (int)target, 1);
    ret = tree < 0 ? tree : set_attributes(x, (int)tree, MOUNT_ATTR_RDONLY, 0, 0, 1);
    if (ret == 0)
        ret = move_onto(x, (int)tree, (int)target);
    if (tree >= 0)
        PC_CALL(close, tree);
    PC_CALL(close, target);
    return ret;
}

/* pivot_root(2), section "pivot_root(".", ".")": the new root is stacked on the old one, which is then detached. */
static long op_pivot(exec_t *x, step_t *s)
{
    long ret = CALL(x, fchdir, fd_of(x, s->fd));

    if (ret == 0)
        ret = CALL(x, pivot_root, ".", ".");
    if (ret == 0)
        ret = CALL(x, umount2, ".", MNT_DETACH);
    return ret == 0 ? CALL(x, chdir, "/") : ret;
}

static long op_loopback(exec_t *x)
{
    struct { char name[16]; short flags; char rest[22]; } request = { .name = "lo", .flags = 1 /* IFF_UP */ };
    long fd = CALL(x, socket, 2 /* AF_INET */, 2 /* SOCK_DGRAM */ | O_CLOEXEC, 0), ret;

    if (fd == -97 /* EAFNOSUPPORT: a kernel without IPv4 */)
        fd = CALL(x, socket, 10 /* AF_INET6 */, 2 | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    ret = CALL(x, ioctl, fd, 0x8914 /* SIOCSIFFLAGS */, &request);
    PC_CALL(close, fd);
    return ret;
}

/* INIT_RLIMITS (include/asm-generic/resource.h): what init has, and not what the caller made of it. The hard limits
 * stay, which only a privileged process can raise. */
static long op_soft_limits(exec_t *x)
{
    static const uint64_t defaults[16] = {
        ~0ULL, ~0ULL, ~0ULL, 8 << 20 /* STACK */, 0 /* CORE */, ~0ULL, ~0ULL, 1024 /* NOFILE */, 8 << 20 /* MEMLOCK */,
        ~0ULL, ~0ULL, ~0ULL, 819200 /* MSGQUEUE */, 0 /* NICE */, 0 /* RTPRIO */, ~0ULL,
    };
    struct { uint64_t soft, hard; } limit;
    long ret = 0;

    for (unsigned resource = 0; resource < 16 && ret == 0; resource++) {
        ret = CALL(x, prlimit64, 0, resource, NULL, &limit);
        if (ret < 0)
            break;
        limit.soft = defaults[resource] < limit.hard ? defaults[resource] : limit.hard;
        ret = CALL(x, prlimit64, 0, resource, &limit, NULL);
    }
    return ret;
}

static long op_keyring(exec_t *x)
{
    long ret = CALL(x, keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);

    return ret == -ENOSYS || ret > 0 ? 0 : ret; /* ENOSYS: a kernel without keyrings has none to inherit */
}

static long op_bounding(exec_t *x, step_t *s)
{
    for (unsigned cap = 0; cap < 64; cap++) {
        if (s->n1 >> cap & 1)
            continue;
        long ret = CALL(x, prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);
        if (ret == -EINVAL) /* past the last capability of this kernel */
            return 0;
        if (ret < 0)
            return ret;
    }
    return 0;
}

static long op_identity(exec_t *x, step_t *s)
{
    int keep = (s->flags & PC_KEEP_CAPS) != 0;
    long ret = 0;

    if (keep)
        ret = CALL(x, prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
    if (ret == 0 && !(s->flags & PC_KEEP_GROUPS))
        ret = CALL(x, setgroups, s->len / sizeof(uint32_t), text(x, s->s2));
    if (ret == 0)
        ret = CALL(x, setresgid, s->n2, s->n2, s->n2);
    if (ret == 0)
        ret = CALL(x, setresuid, s->n1, s->n1, s->n1);
    if (ret == 0 && keep)
        ret = CALL(x, prctl, PR_SET_KEEPCAPS, 0, 0, 0, 0);
    return ret;
}

static long op_capset(exec_t *x, step_t *s)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2] = {
        { (uint32_t)s->n1, (uint32_t)s->n2, (uint32_t)s->n3 },
        { (uint32_t)(s->n1 >> 32), (uint32_t)(s->n2 >> 32), (uint32_t)(s->n3 >> 32) },
    };

    /* With fewer capabilities, a process that sees this one (in the host's pid namespace, say) and has the same may trace
     * it (cap_ptrace_access_check), and this memory is that of Python: not until the exec has left it. */
    CALL(x, prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    return CALL(x, capset, &header, data);
}

static long op_ambient(exec_t *x, step_t *s)
{
    long ret = CALL(x, prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);

    for (unsigned cap = 0; cap < 64 && ret == 0; cap++)
        if (s->n1 >> cap & 1)
            ret = CALL(x, prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
    return ret;
}

static long op_seccomp(exec_t *x, step_t *s)
{
    struct sock_fprog program = { (unsigned short)(s->len / sizeof(struct sock_filter)), (void *)text(x, s->s2) };

    return CALL(x, seccomp, SECCOMP_SET_MODE_FILTER, s->n1, &program);
}

/* A directory that the container has moved out of its root meanwhile, or one of a descriptor that leaked, would be outside:
 * for those getcwd tells no absolute path (CVE-2024-21626). */
static long op_chdir(exec_t *x, step_t *s)
{
    char path[PATH_SIZE];
    long fd = open_at(x, AT_FDCWD, text(x, s->s1), O_PATH | O_DIRECTORY, 0, RESOLVE_NO_MAGICLINKS), ret;

    if (fd < 0)
        return fd;
    ret = CALL(x, fchdir, fd);
    PC_CALL(close, fd);
    if (ret == 0)
        ret = CALL(x, getcwd, path, sizeof path);
    return ret < 0 ? ret : path[0] == '/' ? 0 : -EXDEV;
}

long pc_send_fd(int socket, int fd, const void *data, size_t size)
{
    struct { const void *base; size_t len; } iov = { data, size };
    struct { size_t len; int level, type, fd, pad; } control = { sizeof(size_t) + 3 * sizeof(int), 1, 1 /* SCM_RIGHTS */, fd, 0 };
    struct { void *name; int namelen; void *iov; size_t iovlen; void *control; size_t controllen; int flags; } message = {
        NULL, 0, &iov, 1, &control, sizeof control, 0,
    };
    long ret = PC_CALL(sendmsg, socket, &message, 0x4000 /* MSG_NOSIGNAL */);

    return ret < 0 ? ret : 0;
}

static long op_terminal(exec_t *x, step_t *s)
{
    struct { unsigned short rows, columns, width, height; } size = { (unsigned short)s->n1, (unsigned short)s->n2, 0, 0 };
    int unlock = 0;
    long master = open_at(x, fd_of(x, s->fd), text(x, s->s1), O_RDWR | O_NOCTTY, 0, INSIDE), ret;

    if (master < 0)
        return master;
    ret = CALL(x, ioctl, master, 0x40045431 /* TIOCSPTLCK */, &unlock);
    if (ret == 0)
        ret = store(x, s->out, CALL(x, ioctl, master, 0x5441 /* TIOCGPTPEER */, O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (ret == 0 && (s->n1 || s->n2))
        ret = CALL(x, ioctl, fd_of(x, s->out), 0x5414 /* TIOCSWINSZ */, &size);
    if (ret == 0)
        ret = (x->context->syscall = __NR_sendmsg, pc_send_fd(fd_of(x, s->fd2), (int)master, "", 1));
    PC_CALL(close, master);
    return ret;
}

/* Only here are they unblocked: with their default actions, and before a filter that may not know of these calls. */
static long op_signals(exec_t *x)
{
    uint64_t none = 0;
    struct { void *handler; unsigned long flags; void *restorer; uint64_t mask; } action = { 0, 0, 0, 0 };

    for (int signal = 1; signal <= 64; signal++)
        CALL(x, rt_sigaction, signal, &action, NULL, 8); /* SIGKILL and SIGSTOP answer EINVAL */
    return CALL(x, rt_sigprocmask, 2 /* SIG_SETMASK */, &none, NULL, 8);
}

/* Descriptors below 3 (where the caller had closed its streams, any may be) are first moved out of the way. */
static long op_stdio(exec_t *x, step_t *s)
{
    const uint64_t slots[3] = { s->n1, s->n2, s->n3 };
    int high[3];
    long ret = 0;

    for (int i = 0; i < 3; i++) {
        high[i] = fd_of(x, (int64_t)slots[i]);
        if (high[i] >= 3)
            continue;
        ret = CALL(x, fcntl, high[i], 1030 /* F_DUPFD_CLOEXEC */, 3);
        if (ret < 0)
            return ret;
        high[i] = (int)ret;
    }
    for (int i = 0; i < 3 && ret >= 0; i++)
        ret = CALL(x, dup3, high[i], i, 0);
    return ret < 0 ? ret : 0;
}

static long op_close_fds(exec_t *x, step_t *s)
{
    return CALL(x, close_range, s->n1, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */);
}

/* Fills a NULL-ended vector with `count` strings from `string` on; returns what follows the last. */
static const char *vector(const char **to, const char *string, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        to[i] = string;
        string = next(string);
    }
    to[count] = NULL;
    return string;
}

/* The search of execvp(3): go on past what is not there, remember what may not be executed. */
static long try_candidates(exec_t *x, const char *candidate, const char **argv, const char **envp)
{
    long result = -ENOENT;

    x->context->detail = -1;
    for (uint32_t i = 0; i < x->command->candidates; i++, candidate = next(candidate)) {
        long ret = CALL(x, execve, candidate, argv, envp);
        if (ret == -ENOENT || ret == -ENOTDIR || ret == -EACCES || ret == -ELOOP || ret == -ENAMETOOLONG) {
            /* ENOENT for a file that is there: its interpreter is missing */
            int exists = ret == -EACCES || (ret == -ENOENT && PC_CALL(faccessat, AT_FDCWD, candidate, 0) == 0);
            if (exists && x->context->detail < 0) {
                x->context->detail = (int32_t)i;
                result = ret;
            }
            continue;
        }
        x->context->detail = (int32_t)i;
        return ret;
    }
    return result;
}

static long op_exec(exec_t *x, step_t *s)
{
    const struct pc_command *c = x->command;
    const char **argv = x->pointers, **envp = x->pointers + c->argc + 1, *candidates;

    candidates = vector(envp, vector(argv, (const char *)(c + 1), c->argc), c->envc);
    if (s->fd >= 0)
        return CALL(x, execveat, fd_of(x, s->fd), "", argv, envp, AT_EMPTY_PATH);
    return try_candidates(x, candidates, argv, envp);
}

static long run_step(exec_t *x, step_t *s)
{
    switch (s->op) {
    case PC_AWAIT: return op_await(x, s);
    case PC_PDEATHSIG: return CALL(x, prctl, PR_SET_PDEATHSIG, s->n1, 0, 0, 0);
    case PC_JOIN: return CALL(x, setns, fd_of(x, s->fd), s->n1);
    case PC_UNSHARE: return CALL(x, unshare, s->n1);
    case PC_FORK: return x->fork ? x->fork(s->n1 != 0) : -ENOSYS;
    case PC_ENTER: return op_enter(x, s);
    case PC_WRITE_FILE: return op_write_file(x, s);
    case PC_PROPAGATION: return op_propagation(x, s);
    case PC_OPEN: return op_open(x, s);
    case PC_TREE: return op_tree(x, s);
    case PC_FSMOUNT: return op_fsmount(x, s);
    case PC_OVERLAY: return op_overlay(x, s);
    case PC_SETATTR: return op_setattr(x, s);
    case PC_ATTACH: return op_attach(x, s);
    case PC_MKDIR: return CALL(x, mkdirat, fd_of(x, s->fd), text(x, s->s1), s->n1);
    case PC_MKDIRS: return make_path(x, fd_of(x, s->fd), text(x, s->s1), 1, s->n1);
    case PC_SYMLINK: return CALL(x, symlinkat, text(x, s->s2), fd_of(x, s->fd), text(x, s->s1));
    case PC_MKNOD: return CALL(x, mknodat, fd_of(x, s->fd), text(x, s->s1), s->n1, s->n2);
    case PC_MASK: return op_mask(x, s);
    case PC_READONLY: return op_readonly(x, s);
    case PC_PIVOT: return op_pivot(x, s);
    case PC_HOSTNAME: return CALL(x, sethostname, text(x, s->s2), s->len);
    case PC_DOMAINNAME: return CALL(x, setdomainname, text(x, s->s2), s->len);
    case PC_LOOPBACK: return op_loopback(x);
    case PC_RLIMIT: return CALL(x, prlimit64, 0, s->n1, &s->n2, NULL); /* n2, n3: struct rlimit64 */
    case PC_IO_PRIORITY: return CALL(x, ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, 0, s->n1);
    case PC_SOFT_LIMITS: return op_soft_limits(x);
    case PC_SETSID: { long ret = CALL(x, setsid, 0); return ret < 0 ? ret : 0; }
    case PC_KEYRING: return op_keyring(x);
    case PC_UMASK: CALL(x, umask, s->n1); return 0;
    case PC_BOUNDING: return op_bounding(x, s);
    case PC_IDENTITY: return op_identity(x, s);
    case PC_CAPSET: return op_capset(x, s);
    case PC_AMBIENT: return op_ambient(x, s);
    case PC_NO_NEW_PRIVS: return CALL(x, prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    case PC_SECCOMP: return op_seccomp(x, s);
    case PC_CHDIR: return op_chdir(x, s);
    case PC_TERMINAL: return op_terminal(x, s);
    case PC_CONTROL: return CALL(x, ioctl, fd_of(x, s->fd), 0x540e /* TIOCSCTTY */, 0);
    case PC_SIGNALS: return op_signals(x);
    case PC_STDIO: return op_stdio(x, s);
    case PC_CLOSE_FDS: return op_close_fds(x, s);
    case PC_KEEP: return CALL(x, fcntl, fd_of(x, s->fd), 2 /* F_SETFD */, 0);
    case PC_EXEC: return op_exec(x, s);
    default: return -EINVAL;
    }
}

int pc_execute(const struct pc_execution *x)
{
    const struct pc_step *steps = steps_of(x->plan);

    for (uint32_t i = 0; i < x->plan->steps; i++) {
        long ret = run_step(x, &steps[i]);
        if (ret < 0) {
            x->context->error = (int32_t)-ret;
            x->context->failed = (int32_t)i;
            return -1;
        }
    }
    return 0;
}

/* The floor of the start benchmark: the steps of a full container start without Python, as cheaply as the kernel
 * allows, and the driver that starts the peers without Python's own cost. start.py compiles and drives it.
 *
 *   floor container BASE FILTER CGROUP [ARGV...]        starts a container on BASE/root (BASE/run is its mount point)
 *   floor steps COUNT BASE FILTER CGROUP [ARGV...]      the same COUNT times, prints the median of each step
 *   floor show BASE FILTER CGROUP ARGV...               the same once, passes the output on
 *   floor spawn FILE ARGV...                            vfork and exec only; each start has FILE open as descriptor 3
 *
 * `container` and `spawn` work in lock step with the harness: a line with a count on standard input, answered by a line
 * with the nanoseconds of each of so many starts, from before the pipes are made until everything is removed again.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the floor has been written for x86-64 only"
#endif

#define MEMORY_LIMIT "268435456"
#define PIDS_LIMIT "64"
#define STACK_SIZE (256 * 1024)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* The steps in the order of events; each name ends the time that began with the one before. */
#define STEPS(X) \
    X(PIPES, "pipes") X(CGROUP, "cgroup: mkdir, limits, open tasks") X(CLONE, "clone3") \
    X(ATTACH, "cgroup: attach, cgroup namespace") X(PRIVATE, "private propagation") X(UPPER, "tmpfs for the upper") \
    X(OVERLAY, "overlay") X(PIVOT, "pivot_root") X(DETACH, "detach the old root") X(PROC, "/proc") \
    X(DEV, "/dev: tmpfs, nodes, links") X(DEVMOUNTS, "/dev/pts, shm, mqueue") X(SYS, "/sys") X(MASK, "masked paths") \
    X(READONLY, "read-only paths") X(LO, "lo up") X(SESSION, "hostname, keyring, session") X(FDS, "descriptors") \
    X(IDS, "groups, gid, uid") X(CAPS, "capabilities, no_new_privs") X(SECCOMP, "seccomp filter") \
    X(EXEC, "exec, program, end of output") X(EXIT, "exit: namespaces, waitid") X(USAGE, "cgroup: usage") \
    X(RMDIR, "cgroup: rmdir, close")

enum step {
#define X(id, name) id,
    STEPS(X)
#undef X
    STEP_COUNT
};
static const char *const step_names[] = {
#define X(id, name) name,
    STEPS(X)
#undef X
};

static const char *const masked_paths[] = {
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
};
static const char *const read_only_paths[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};

/* The default set of docker. */
#define BIT(capability) (1ULL << (capability))
#define CAPABILITIES \
    (BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_FOWNER) | BIT(CAP_FSETID) | BIT(CAP_KILL) | BIT(CAP_SETGID) | \
     BIT(CAP_SETUID) | BIT(CAP_SETPCAP) | BIT(CAP_NET_BIND_SERVICE) | BIT(CAP_NET_RAW) | BIT(CAP_SYS_CHROOT) | \
     BIT(CAP_MKNOD) | BIT(CAP_AUDIT_WRITE) | BIT(CAP_SETFCAP))

/* What is read-only during a start: opened, compiled and named once. */
struct config {
    const char *base;
    char *const *argv;
    int unified; /* cgroup v2 with controllers, else the v1 hierarchies of memory and pids */
    char cgroup_parents[2][256];
    int parent_fds[2];
    int null_fd;
    int last_capability;
    struct sock_fprog filter;
};

/* One start; shared with the child, which runs in the same memory until it executes. */
struct start {
    const struct config *config;
    int out, err;
    int tasks[2];
    enum step at;
    int error; /* of the step `at`, 0 when the child reached exec */
    uint64_t ends[STEP_COUNT];
};

struct captured {
    char *data;
    size_t size;
};

static char *const environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL};

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void done(struct start *s, enum step step)
{
    s->ends[step] = now();
    s->at = step + 1;
}

/* --- the child: system calls only, in the memory of the parent, on a stack of its own ----------------------------- */

static void fail(struct start *s)
{
    s->error = errno;
    syscall(SYS_exit_group, 125);
}

static void must(struct start *s, long result)
{
    if (result < 0)
        fail(s);
}

static void enter_root(struct start *s)
{
    must(s, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    done(s, PRIVATE);

    /* Relative to BASE, so that the overlay's options stay short and nothing is resolved twice. */
    must(s, chdir(s->config->base));
    must(s, mount("tmpfs", "run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"));
    must(s, mkdir("run/upper", 0755));
    must(s, mkdir("run/work", 0755));
    done(s, UPPER);

    /* Not `volatile`: an upper on tmpfs has nothing to sync, and the option makes two more directories. */
    must(s, mount("overlay", "run", "overlay", 0, "lowerdir=root,upperdir=run/upper,workdir=run/work"));
    must(s, chdir("run"));
    done(s, OVERLAY);

    /* pivot_root(2), "pivot_root(".", ".")": the old root is stacked on the new one and taken away. */
    must(s, syscall(SYS_pivot_root, ".", "."));
    done(s, PIVOT);
    must(s, umount2(".", MNT_DETACH));
    must(s, chdir("/"));
    done(s, DETACH);
}

static void mount_dev(struct start *s)
{
    static const struct {
        const char *path;
        unsigned minor, major;
    } nodes[] = {
        {"/dev/null", 3, 1},   {"/dev/zero", 5, 1},    {"/dev/full", 7, 1},
        {"/dev/random", 8, 1}, {"/dev/urandom", 9, 1}, {"/dev/tty", 0, 5},
    };
    static const char *const links[][2] = {
        {"pts/ptmx", "/dev/ptmx"}, {"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"},
        {"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"},
    };
    must(s, mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
    for (size_t i = 0; i < COUNT(nodes); i++)
        must(s, mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
    for (size_t i = 0; i < COUNT(links); i++)
        must(s, symlink(links[i][0], links[i][1]));
    must(s, mkdir("/dev/pts", 0755));
    must(s, mkdir("/dev/shm", 01777));
    must(s, mkdir("/dev/mqueue", 0755));
    done(s, DEV);
    must(s, mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
    must(s, mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=1777,size=65536k"));
    must(s, mount("mqueue", "/dev/mqueue", "mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL));
    done(s, DEVMOUNTS);
}

/* After pivot_root no path leads to the host, so that the targets need no resolution of their own and mount(2), one
 * system call instead of three, is as safe as the mount by descriptor. */
static void mount_system(struct start *s)
{
    const char *empty = NULL; /* one empty file system masks all the directories */

    must(s, mount("proc", "/proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL));
    done(s, PROC);
    mount_dev(s);
    must(s, mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, NULL));
    done(s, SYS);

    for (size_t i = 0; i < COUNT(masked_paths); i++) {
        const char *path = masked_paths[i];
        if (mount("/dev/null", path, NULL, MS_BIND, NULL) == 0 || errno == ENOENT)
            continue;
        if (errno != ENOTDIR)
            fail(s);
        if (empty) {
            must(s, mount(empty, path, NULL, MS_BIND, NULL));
        } else {
            must(s, mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL));
            empty = path;
        }
    }
    done(s, MASK);

    for (size_t i = 0; i < COUNT(read_only_paths); i++) {
        const char *path = read_only_paths[i];
        if (mount(path, path, NULL, MS_BIND | MS_REC, NULL) < 0) {
            if (errno == ENOENT)
                continue;
            fail(s);
        }
        must(s, mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL));
    }
    done(s, READONLY);
}

static void raise_loopback(struct start *s)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); /* any family takes the ioctl (netdevice(7)) */
    must(s, fd);
    must(s, ioctl(fd, SIOCSIFFLAGS, &request));
    must(s, close(fd));
    done(s, LO);
}

static void drop_privileges(struct start *s)
{
    const struct config *c = s->config;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {
        {.effective = (uint32_t)CAPABILITIES, .permitted = (uint32_t)CAPABILITIES},
        {.effective = CAPABILITIES >> 32, .permitted = CAPABILITIES >> 32},
    };

    /* syscall(2): the wrappers of libc would change the threads of the parent too. */
    must(s, syscall(SYS_setgroups, 0, NULL));
    must(s, syscall(SYS_setresgid, 0, 0, 0));
    must(s, syscall(SYS_setresuid, 0, 0, 0));
    done(s, IDS);

    for (int capability = 0; capability <= c->last_capability; capability++)
        if (!(CAPABILITIES >> capability & 1))
            must(s, prctl(PR_CAPBSET_DROP, capability, 0, 0, 0));
    must(s, prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
    must(s, syscall(SYS_capset, &header, data));
    must(s, prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    done(s, CAPS);
    must(s, syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &c->filter));
    done(s, SECCOMP);
}

static int run_child(void *argument)
{
    struct start *s = argument;
    const uint64_t no_signals = 0;

    done(s, CLONE);
    must(s, prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
    umask(0);
    if (!s->config->unified) {
        /* "0" to tasks moves the calling thread; writing cgroup.procs would wait for an RCU grace period. */
        must(s, write(s->tasks[0], "0", 1));
        must(s, write(s->tasks[1], "0", 1));
    }
    must(s, unshare(CLONE_NEWCGROUP));
    done(s, ATTACH);

    enter_root(s);
    mount_system(s);
    raise_loopback(s);

    must(s, sethostname("floor", 5));
    must(s, syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL));
    must(s, setsid());
    umask(022);
    done(s, SESSION);

    must(s, dup2(s->config->null_fd, 0));
    must(s, dup2(s->out, 1));
    must(s, dup2(s->err, 2));
    must(s, syscall(SYS_close_range, 3, ~0U, 0));
    done(s, FDS);

    drop_privileges(s);
    /* The handlers were reset by CLONE_CLEAR_SIGHAND. */
    must(s, syscall(SYS_rt_sigprocmask, SIG_SETMASK, &no_signals, NULL, sizeof no_signals));
    execve(s->config->argv[0], s->config->argv, environment);
    fail(s);
    return 125;
}

/* --- the parent --------------------------------------------------------------------------------------------------- */

/* clone3(2) has no wrapper in libc: the child calls `function` on its new stack and exits with what it returns. */
static long clone3_call(struct clone_args *args, int (*function)(void *), void *argument)
{
    long result;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "mov %[argument], %%rdi\n\t"
                     "call *%[function]\n\t"
                     "mov %%eax, %%edi\n\t"
                     "mov %[exit_group], %%eax\n\t"
                     "syscall\n\t"
                     "hlt\n\t"
                     "1:"
                     : "=a"(result)
                     : "a"(SYS_clone3), "D"(args), "S"(sizeof *args), [function] "r"(function),
                       [argument] "r"(argument), [exit_group] "i"(SYS_exit_group)
                     : "rcx", "r11", "memory");
    return result;
}

/* Starts `function` in the memory of this process on a stack of its own, all signals blocked, and returns a pidfd. */
static int spawn(struct start *s, uint64_t flags, int cgroup, int (*function)(void *))
{
    static char *stack;
    const uint64_t all_signals = ~0ULL;
    uint64_t old_signals;
    int pidfd = -1;

    if (!stack) {
        stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        if (stack == MAP_FAILED)
            die("mmap");
    }
    struct clone_args args = {
        .flags = CLONE_VM | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | flags,
        .pidfd = (uint64_t)(uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = STACK_SIZE,
        .cgroup = (uint64_t)cgroup,
    };
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all_signals, &old_signals, sizeof old_signals);
    long pid = clone3_call(&args, function, s);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &old_signals, NULL, sizeof old_signals);
    if (pid < 0) {
        errno = (int)-pid;
        die("clone3");
    }
    return pidfd;
}

/* Reads both streams to their end; what exceeds `captured` is read and dropped. */
static void read_streams(int out, int err, struct captured *captured)
{
    struct pollfd fds[2] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
    static char buffer[65536];

    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
        if (poll(fds, 2, -1) < 0)
            die("poll");
        for (int i = 0; i < 2; i++) {
            if (fds[i].fd < 0 || !fds[i].revents)
                continue;
            ssize_t n = read(fds[i].fd, buffer, sizeof buffer);
            if (n < 0)
                die("read");
            if (n == 0)
                fds[i].fd = -1;
            else if (captured && (captured->data = realloc(captured->data, captured->size + (size_t)n))) {
                memcpy(captured->data + captured->size, buffer, (size_t)n);
                captured->size += (size_t)n;
            }
        }
    }
}

static int wait_exit(int pidfd, struct rusage *usage)
{
    siginfo_t info;
    if (syscall(SYS_waitid, P_PIDFD, pidfd, &info, WEXITED, usage) < 0)
        die("waitid");
    return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

static void write_file(int dir, const char *name, const char *text)
{
    int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        die(name);
    close(fd);
}

static long read_number(int dir, const char *name)
{
    char text[32] = "";
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1; /* pids.peak came to v1 with Linux 6.11 */
    if (read(fd, text, sizeof text - 1) < 0)
        die(name);
    close(fd);
    return atol(text);
}

static int make_cgroup(int parent, const char *name)
{
    if (mkdirat(parent, name, 0755) < 0)
        die("mkdir of the cgroup");
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        die("open of the cgroup");
    return fd;
}

static uint64_t start_container(const struct config *c, struct start *s, struct captured *captured)
{
    static unsigned long serial;
    char name[32];
    int out[2], err[2], cgroups[2] = {-1, -1};
    struct rusage usage;
    int kinds = c->unified ? 1 : 2;
    uint64_t flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    uint64_t began = now();

    if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
        die("pipe2");
    *s = (struct start){.config = c, .out = out[1], .err = err[1], .tasks = {-1, -1}};
    done(s, PIPES);

    snprintf(name, sizeof name, "%d-%lu", getpid(), serial++);
    for (int i = 0; i < kinds; i++)
        cgroups[i] = make_cgroup(c->parent_fds[i], name);
    if (c->unified) {
        write_file(cgroups[0], "memory.max", MEMORY_LIMIT);
        write_file(cgroups[0], "pids.max", PIDS_LIMIT);
        flags |= CLONE_INTO_CGROUP;
    } else {
        write_file(cgroups[0], "memory.limit_in_bytes", MEMORY_LIMIT);
        write_file(cgroups[1], "pids.max", PIDS_LIMIT);
        for (int i = 0; i < 2; i++)
            if ((s->tasks[i] = openat(cgroups[i], "tasks", O_WRONLY | O_CLOEXEC)) < 0)
                die("tasks");
    }
    done(s, CGROUP);

    int pidfd = spawn(s, flags, cgroups[0], run_child);
    close(out[1]);
    close(err[1]);
    read_streams(out[0], err[0], captured);
    done(s, EXEC);
    int status = wait_exit(pidfd, &usage);
    if (s->error) {
        errno = s->error;
        die(step_names[s->at == EXIT ? EXEC : s->at]);
    }
    done(s, EXIT);

    long memory = read_number(cgroups[0], c->unified ? "memory.peak" : "memory.max_usage_in_bytes");
    long pids = read_number(cgroups[kinds - 1], "pids.peak");
    done(s, USAGE);

    for (int i = 0; i < kinds; i++) {
        if (unlinkat(c->parent_fds[i], name, AT_REMOVEDIR) < 0)
            die("rmdir of the cgroup");
        close(cgroups[i]);
        if (s->tasks[i] >= 0)
            close(s->tasks[i]);
    }
    close(out[0]);
    close(err[0]);
    close(pidfd);
    done(s, RMDIR);
    if (status != 0 || memory <= 0 || pids == 0) {
        fprintf(stderr, "floor: status %d, memory peak %ld, pids peak %ld\n", status, memory, pids);
        exit(1);
    }
    return s->ends[RMDIR] - began;
}

/* --- the peers: vfork and exec, with the same pipes and waits ----------------------------------------------------- */

static const char *spawn_file;
extern char **environ;

static int run_plain_child(void *argument)
{
    struct start *s = argument;
    const uint64_t no_signals = 0;
    int fd;

    must(s, dup2(s->config->null_fd, 0));
    must(s, dup2(s->out, 1));
    must(s, dup2(s->err, 2));
    must(s, syscall(SYS_close_range, 3, ~0U, 0));
    must(s, fd = open(spawn_file, O_RDONLY)); /* the lowest free descriptor: 3 */
    must(s, syscall(SYS_rt_sigprocmask, SIG_SETMASK, &no_signals, NULL, sizeof no_signals));
    execve(s->config->argv[0], s->config->argv, environ);
    fail(s);
    return 125;
}

static uint64_t start_plain(const struct config *c, struct start *s, struct captured *captured)
{
    int out[2], err[2];
    struct rusage usage;
    uint64_t began = now();

    if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
        die("pipe2");
    *s = (struct start){.config = c, .out = out[1], .err = err[1], .at = EXEC};
    int pidfd = spawn(s, CLONE_VFORK, 0, run_plain_child);
    close(out[1]);
    close(err[1]);
    read_streams(out[0], err[0], captured);
    int status = wait_exit(pidfd, &usage);
    close(out[0]);
    close(err[0]);
    close(pidfd);
    uint64_t ended = now();
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ; /* the monitors that a peer left behind: see PR_SET_CHILD_SUBREAPER in main */
    if (s->error || status != 0) {
        fprintf(stderr, "floor: %s: status %d, errno %d\n", c->argv[0], status, s->error);
        if (captured)
            fwrite(captured->data, 1, captured->size, stderr);
        exit(1);
    }
    return ended - began;
}

/* --- set-up and modes --------------------------------------------------------------------------------------------- */

static void open_cgroups(struct config *c, const char *name)
{
    c->unified = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
    if (c->unified) {
        int root = open("/sys/fs/cgroup", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        write_file(root, "cgroup.subtree_control", "+memory +pids");
        close(root);
    }
    for (int i = 0; i < (c->unified ? 1 : 2); i++) {
        const char *hierarchy = c->unified ? "" : i == 0 ? "/memory" : "/pids";
        snprintf(c->cgroup_parents[i], sizeof c->cgroup_parents[i], "/sys/fs/cgroup%s/%s", hierarchy, name);
        if (mkdir(c->cgroup_parents[i], 0755) < 0 && errno != EEXIST)
            die(c->cgroup_parents[i]);
        c->parent_fds[i] = open(c->cgroup_parents[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (c->parent_fds[i] < 0)
            die(c->cgroup_parents[i]);
        if (c->unified)
            write_file(c->parent_fds[i], "cgroup.subtree_control", "+memory +pids");
    }
}

static void load_filter(struct config *c, const char *path)
{
    static struct sock_filter instructions[BPF_MAXINSNS];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, instructions, sizeof instructions);
    if (size <= 0)
        die(path);
    close(fd);
    c->filter.len = (unsigned short)((size_t)size / sizeof instructions[0]);
    c->filter.filter = instructions;
}

static void configure(struct config *c, char *const *arguments, int count)
{
    static char *default_argv[] = {"/bin/true", NULL};
    int fd = open("/proc/sys/kernel/cap_last_cap", O_RDONLY | O_CLOEXEC);
    char text[16] = "";

    if (count < 3) {
        errno = EINVAL;
        die("BASE FILTER CGROUP are missing");
    }
    if (fd < 0 || read(fd, text, sizeof text - 1) < 0)
        die("cap_last_cap");
    close(fd);
    c->last_capability = atoi(text);
    c->base = arguments[0];
    load_filter(c, arguments[1]);
    open_cgroups(c, arguments[2]);
    c->argv = count > 3 ? arguments + 3 : default_argv;
}

static void serve(const struct config *c, uint64_t (*start)(const struct config *, struct start *, struct captured *))
{
    char line[32];
    static struct start s;

    while (fgets(line, sizeof line, stdin)) {
        for (long i = atol(line); i > 0; i--)
            printf("%llu%c", (unsigned long long)start(c, &s, NULL), i > 1 ? ' ' : '\n');
        fflush(stdout);
    }
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double median_us(uint64_t *values, size_t count)
{
    qsort(values, count, sizeof values[0], compare);
    return (double)values[count / 2] / 1000;
}

/* Prints "microseconds<TAB>step". The pause of 10 ms keeps the kernel's deferred clean-up out of the figures. */
static void print_steps(const struct config *c, size_t count)
{
    static struct start s;
    uint64_t *times = calloc((STEP_COUNT + 1) * count, sizeof *times);
    if (!times || !count)
        die("COUNT");
    for (size_t i = 0; i < count; i++) {
        uint64_t total = start_container(c, &s, NULL), last = s.ends[RMDIR] - total;
        for (int step = 0; step < STEP_COUNT; step++) {
            times[(size_t)step * count + i] = s.ends[step] - last;
            last = s.ends[step];
        }
        times[STEP_COUNT * count + i] = total;
        usleep(10000);
    }
    for (int step = 0; step < STEP_COUNT; step++)
        printf("%.1f\t%s\n", median_us(times + (size_t)step * count, count), step_names[step]);
    printf("%.1f\ttotal\n", median_us(times + STEP_COUNT * count, count));
}

int main(int argc, char **argv)
{
    static struct config c;
    static struct start s;
    struct captured captured = {0};
    const char *mode = argc > 1 ? argv[1] : "";

    c.null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (strcmp(mode, "spawn") == 0 && argc > 3) {
        spawn_file = argv[2];
        c.argv = argv + 3;
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        start_plain(&c, &s, &captured); /* an error is shown here, with the program's own words */
        serve(&c, start_plain);
        while (wait(NULL) > 0)
            ;
        return 0;
    }
    if (strcmp(mode, "container") == 0) {
        configure(&c, argv + 2, argc - 2);
        serve(&c, start_container);
    } else if (strcmp(mode, "steps") == 0 && argc > 2) {
        configure(&c, argv + 3, argc - 3);
        print_steps(&c, (size_t)atol(argv[2]));
    } else if (strcmp(mode, "show") == 0) {
        configure(&c, argv + 2, argc - 2);
        start_container(&c, &s, &captured);
        fwrite(captured.data, 1, captured.size, stdout);
    } else {
        fprintf(stderr, "usage: floor container|steps|show|spawn ... (see the head of floor.c)\n");
        return 2;
    }
    for (int i = 0; i < (c.unified ? 1 : 2); i++)
        if (rmdir(c.cgroup_parents[i]) < 0)
            die(c.cgroup_parents[i]);
    return 0;
}

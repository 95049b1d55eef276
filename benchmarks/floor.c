/* The floor of the start benchmark: the steps of a full container start without Python, as cheaply as the kernel
 * allows, and the driver that starts the peers without Python's own cost. start.py compiles and drives it.
 *
 *   floor container BASE FILTER CGROUP [ARGV...]        starts a container on BASE/root (BASE/run is its mount point;
 *                                                       BASE/devices is the BPF program for its devices)
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
#include <linux/bpf.h>
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
#define MAX_GROUPS 3
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* The steps in the order of events; each name ends the time that began with the one before. */
#define STEPS(X) \
    X(PIPES, "pipes") X(CGROUP, "cgroup: mkdir, limits, devices") X(CLONE, "clone3") \
    X(ATTACH, "cgroup: attach, cgroup namespace") X(PRIVATE, "private propagation") X(UPPER, "tmpfs for the upper") \
    X(OVERLAY, "overlay") X(PIVOT, "pivot_root") X(DETACH, "detach the old root") X(PROC, "/proc") \
    X(DEV, "/dev: tmpfs, nodes, links") X(SYS, "/sys") X(MASK, "masked paths") \
    X(DEVMOUNTS, "/dev/pts, shm, mqueue") X(READONLY, "read-only paths") X(LO, "lo up") \
    X(SESSION, "keyring, session, soft limits") X(FDS, "descriptors") X(IDS, "groups, gid, uid") \
    X(CAPS, "capabilities, no_new_privs") X(SECCOMP, "seccomp filter") \
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
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
    "/sys/firmware",
};
static const char *const read_only_paths[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};

/* pycontain's default set, which is podman's. */
#define BIT(capability) (1ULL << (capability))
#define CAPABILITIES \
    (BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_FOWNER) | BIT(CAP_FSETID) | BIT(CAP_KILL) | BIT(CAP_SETGID) | \
     BIT(CAP_SETUID) | BIT(CAP_SETPCAP) | BIT(CAP_NET_BIND_SERVICE) | BIT(CAP_SYS_CHROOT) | BIT(CAP_SETFCAP))

/* What the soft limits are reset to (INIT_RLIMITS of the kernel); no limit where nothing is said. */
static const struct {
    int resource;
    rlim_t soft;
} limited[] = {
    {RLIMIT_STACK, 8 << 20},   {RLIMIT_CORE, 0},          {RLIMIT_NOFILE, 1024}, {RLIMIT_MEMLOCK, 8 << 20},
    {RLIMIT_MSGQUEUE, 819200}, {RLIMIT_NICE, 0},          {RLIMIT_RTPRIO, 0},
};

/* What is read-only during a start: opened, compiled and named once. */
struct config {
    const char *base;
    char *const *argv;
    /* Where the groups are, the v2 hierarchy first: it alone when it has the controllers, else also memory and pids. */
    size_t groups;
    char cgroup_parents[MAX_GROUPS][256];
    int parent_fds[MAX_GROUPS];
    int accounts_swap; /* v1: memory and swap together have a limit of their own */
    int devices_fd;    /* the BPF program that limits devices, loaded once */
    unsigned mask_directories; /* a bit for each masked path: a bind of the wrong kind waits for an RCU grace period */
    /* The soft limits that differ from what they are reset to. */
    size_t limit_count;
    struct {
        int resource;
        struct rlimit value;
    } limits[RLIM_NLIMITS];
    int null_fd;
    int last_capability;
    struct sock_fprog filter;
};

/* One start; shared with the child, which runs in the same memory until it executes. */
struct start {
    const struct config *config;
    int out, err;
    int tasks[MAX_GROUPS];
    enum step at;
    int error; /* of the step `at`, 0 when the child reached exec */
    uint64_t ends[STEP_COUNT];
    struct {
        long memory_peak, pids_peak, stalls[3]; /* bytes, processes, microseconds; -1 where the kernel tells none */
    } usage;
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
    must(s, mount("overlay", "run", "overlay", MS_NODEV, "lowerdir=root,upperdir=run/upper,workdir=run/work"));
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
    must(s, mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC | MS_STRICTATIME, "mode=755,size=65536k"));
    for (size_t i = 0; i < COUNT(nodes); i++)
        must(s, mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
    for (size_t i = 0; i < COUNT(links); i++)
        must(s, symlink(links[i][0], links[i][1]));
    must(s, mkdir("/dev/pts", 0755));
    must(s, mkdir("/dev/shm", 01777));
    must(s, mkdir("/dev/mqueue", 0755));
    done(s, DEV);
}

/* An empty directory and a null device that only the masks have: the container could change the mode of its own. Their
 * file system is mounted where mqueue will hide it: unmounting it would wait for an RCU grace period, 0.2 ms. The binds
 * are read-only as that mount is. */
static void mask_paths(struct start *s)
{
    const unsigned long flags = MS_NOSUID | MS_NOEXEC;

    must(s, mount("tmpfs", "/dev/mqueue", "tmpfs", flags, "mode=755"));
    must(s, mkdir("/dev/mqueue/empty", 0555));
    must(s, mknod("/dev/mqueue/null", S_IFCHR | 0666, makedev(1, 3)));
    must(s, mount(NULL, "/dev/mqueue", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, NULL));
    for (size_t i = 0; i < COUNT(masked_paths); i++) {
        const char *mask = s->config->mask_directories >> i & 1 ? "/dev/mqueue/empty" : "/dev/mqueue/null";
        if (mount(mask, masked_paths[i], NULL, MS_BIND, NULL) < 0 && errno != ENOENT)
            fail(s);
    }
    done(s, MASK);
}

static void mount_in_dev(struct start *s)
{
    must(s, mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
    must(s, mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=1777,size=65536k"));
    must(s, mount("mqueue", "/dev/mqueue", "mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL));
    done(s, DEVMOUNTS);
}

/* After pivot_root no path leads to the host, so that the targets need no resolution of their own and mount(2), one
 * system call instead of three, is as safe as the mount by descriptor. */
static void mount_system(struct start *s)
{
    must(s, mount("proc", "/proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL));
    done(s, PROC);
    mount_dev(s);
    must(s, mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, NULL));
    if (s->config->groups == 1) /* only v2 shows a container its own groups and no others */
        must(s, mount("cgroup", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, NULL));
    done(s, SYS);
    mask_paths(s);
    mount_in_dev(s);

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
    /* It was born into the v2 group. "0" to tasks moves the calling thread into those of v1; writing cgroup.procs would
     * wait for an RCU grace period. */
    for (size_t i = 1; i < s->config->groups; i++)
        must(s, write(s->tasks[i], "0", 1));
    must(s, unshare(CLONE_NEWCGROUP));
    done(s, ATTACH);

    enter_root(s);
    mount_system(s);
    raise_loopback(s);

    must(s, syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL));
    must(s, setsid());
    umask(022);
    for (size_t i = 0; i < s->config->limit_count; i++)
        must(s, setrlimit(s->config->limits[i].resource, &s->config->limits[i].value));
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

/* The total, in microseconds, of the first line of a pressure file; -1 without pressure stall information. */
static long read_stall(int dir, const char *name)
{
    char text[256] = "";
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    const char *total = read(fd, text, sizeof text - 1) > 0 ? strstr(text, "total=") : NULL;
    close(fd);
    return total ? atol(total + strlen("total=")) : -1;
}

/* The groups of one start, the v2 group first, with its limits; the child enters those of v1 by their tasks files. */
static void make_cgroups(const struct config *c, struct start *s, const char *name, int cgroups[])
{
    for (size_t i = 0; i < c->groups; i++)
        cgroups[i] = make_cgroup(c->parent_fds[i], name);
    if (c->groups == 1) {
        write_file(cgroups[0], "memory.max", MEMORY_LIMIT);
        if (c->accounts_swap)
            write_file(cgroups[0], "memory.swap.max", "0");
        write_file(cgroups[0], "pids.max", PIDS_LIMIT);
    } else {
        write_file(cgroups[1], "memory.limit_in_bytes", MEMORY_LIMIT);
        if (c->accounts_swap)
            write_file(cgroups[1], "memory.memsw.limit_in_bytes", MEMORY_LIMIT);
        write_file(cgroups[2], "pids.max", PIDS_LIMIT);
    }
    for (size_t i = 1; i < c->groups; i++)
        if ((s->tasks[i] = openat(cgroups[i], "tasks", O_WRONLY | O_CLOEXEC)) < 0)
            die("tasks");
    union bpf_attr attach = {
        .target_fd = (uint32_t)cgroups[0], .attach_bpf_fd = (uint32_t)c->devices_fd,
        .attach_type = BPF_CGROUP_DEVICE, .attach_flags = BPF_F_ALLOW_MULTI,
    };
    if (syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach) < 0)
        die("BPF_PROG_ATTACH");
}

static void read_usage(const struct config *c, struct start *s, const int cgroups[])
{
    static const char *const pressures[] = {"cpu.pressure", "memory.pressure", "io.pressure"};

    s->usage.memory_peak = c->groups == 1 ? read_number(cgroups[0], "memory.peak")
                                          : read_number(cgroups[1], "memory.max_usage_in_bytes");
    s->usage.pids_peak = read_number(cgroups[c->groups - 1], "pids.peak");
    for (size_t i = 0; i < COUNT(pressures); i++)
        s->usage.stalls[i] = read_stall(cgroups[0], pressures[i]);
}

static void remove_cgroups(const struct config *c, struct start *s, const char *name, const int cgroups[])
{
    for (size_t i = 0; i < c->groups; i++) {
        if (unlinkat(c->parent_fds[i], name, AT_REMOVEDIR) < 0)
            die("rmdir of the cgroup");
        close(cgroups[i]);
        if (i > 0)
            close(s->tasks[i]);
    }
}

static uint64_t start_container(const struct config *c, struct start *s, struct captured *captured)
{
    static unsigned long serial;
    char name[32];
    int out[2], err[2], cgroups[MAX_GROUPS];
    struct rusage usage;
    uint64_t flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_INTO_CGROUP;
    uint64_t began = now();

    if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
        die("pipe2");
    *s = (struct start){.config = c, .out = out[1], .err = err[1]};
    done(s, PIPES);

    snprintf(name, sizeof name, "%d-%lu", getpid(), serial++);
    make_cgroups(c, s, name, cgroups);
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

    read_usage(c, s, cgroups);
    done(s, USAGE);

    remove_cgroups(c, s, name, cgroups);
    close(out[0]);
    close(err[0]);
    close(pidfd);
    done(s, RMDIR);
    if (status != 0 || s->usage.memory_peak <= 0 || s->usage.pids_peak == 0) {
        fprintf(stderr, "floor: status %d, memory peak %ld, pids peak %ld\n", status, s->usage.memory_peak,
                s->usage.pids_peak);
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

/* Opens the parent of the groups in each hierarchy that is used. */
static void open_cgroups(struct config *c, const char *name)
{
    const char *controllers = "+memory +pids";
    int unified = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
    const char *hierarchies[MAX_GROUPS] = {unified ? "" : "/unified", "/memory", "/pids"};

    if (unified) {
        int root = open("/sys/fs/cgroup", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        write_file(root, "cgroup.subtree_control", controllers);
        close(root);
    } else if (access("/sys/fs/cgroup/unified/cgroup.controllers", F_OK) < 0) {
        die("the cgroup v2 hierarchy, by which devices are limited");
    }
    c->groups = unified ? 1 : MAX_GROUPS;
    for (size_t i = 0; i < c->groups; i++) {
        snprintf(c->cgroup_parents[i], sizeof c->cgroup_parents[i], "/sys/fs/cgroup%s/%s", hierarchies[i], name);
        if (mkdir(c->cgroup_parents[i], 0755) < 0 && errno != EEXIST)
            die(c->cgroup_parents[i]);
        c->parent_fds[i] = open(c->cgroup_parents[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (c->parent_fds[i] < 0)
            die(c->cgroup_parents[i]);
    }
    if (unified)
        write_file(c->parent_fds[0], "cgroup.subtree_control", controllers);
    int probe = make_cgroup(c->parent_fds[unified ? 0 : 1], "probe");
    c->accounts_swap = faccessat(probe, unified ? "memory.swap.max" : "memory.memsw.limit_in_bytes", F_OK, 0) == 0;
    close(probe);
    unlinkat(c->parent_fds[unified ? 0 : 1], "probe", AT_REMOVEDIR);
}

/* Reads at most `size` bytes of a file; how many. */
static size_t read_whole(const char *path, void *data, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, data, size);
    if (n <= 0)
        die(path);
    close(fd);
    return (size_t)n;
}

/* The program for the devices, BASE/devices: instructions of BPF. */
static void load_devices(struct config *c)
{
    static struct bpf_insn instructions[4096];
    char path[4096];

    snprintf(path, sizeof path, "%s/devices", c->base);
    size_t size = read_whole(path, instructions, sizeof instructions);
    union bpf_attr load = {
        .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insn_cnt = (uint32_t)(size / sizeof instructions[0]),
        .insns = (uint64_t)(uintptr_t)instructions, .license = (uint64_t)(uintptr_t)"Apache-2.0",
        .expected_attach_type = BPF_CGROUP_DEVICE,
    };
    c->devices_fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
    if (c->devices_fd < 0)
        die("BPF_PROG_LOAD");
}

/* Which masked paths are directories: the kernel's own are the same on the host. */
static void find_directories(struct config *c)
{
    struct stat info;

    for (size_t i = 0; i < COUNT(masked_paths); i++)
        if (stat(masked_paths[i], &info) == 0 && S_ISDIR(info.st_mode))
            c->mask_directories |= 1U << i;
}

/* Which soft limits a child has to change: they are the caller's own, and do not change from start to start. */
static void find_limits(struct config *c)
{
    for (int resource = 0; resource < RLIM_NLIMITS; resource++) {
        struct rlimit value;
        rlim_t soft = RLIM_INFINITY;
        if (getrlimit(resource, &value) < 0)
            die("getrlimit");
        for (size_t i = 0; i < COUNT(limited); i++)
            if (limited[i].resource == resource)
                soft = limited[i].soft;
        soft = soft < value.rlim_max ? soft : value.rlim_max;
        if (soft == value.rlim_cur)
            continue;
        value.rlim_cur = soft;
        c->limits[c->limit_count].resource = resource;
        c->limits[c->limit_count++].value = value;
    }
}

static void load_filter(struct config *c, const char *path)
{
    static struct sock_filter instructions[BPF_MAXINSNS];

    c->filter.len = (unsigned short)(read_whole(path, instructions, sizeof instructions) / sizeof instructions[0]);
    c->filter.filter = instructions;
}

static void configure(struct config *c, char *const *arguments, int count)
{
    static char *default_argv[] = {"/bin/true", NULL};
    char text[16] = "";

    if (count < 3) {
        errno = EINVAL;
        die("BASE FILTER CGROUP are missing");
    }
    read_whole("/proc/sys/kernel/cap_last_cap", text, sizeof text - 1);
    c->last_capability = atoi(text);
    c->base = arguments[0];
    load_filter(c, arguments[1]);
    load_devices(c);
    find_directories(c);
    find_limits(c);
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
    for (size_t i = 0; i < c.groups; i++)
        if (rmdir(c.cgroup_parents[i]) < 0)
            die(c.cgroup_parents[i]);
    return 0;
}

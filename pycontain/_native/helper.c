/* The helper: a static program of a few kilobytes without libc, run from a sealed memory file. It has four uses, told
 * apart by argv[0], each a place where no memory of the Python process may be:
 *
 *   pycontain-init   process 1 of a container started with init: runs the command, reaps orphans, forwards signals
 *   pycontain-guard  one for each Python process: kills its tasks when it is gone, however it ended
 *   pycontain-pause  keeps a scope of systemd, which removes one without processes (pycontain/cgroups/systemd_pause.py)
 *   pycontain-join   executes a plan that joins the pid or user namespace of others, who can see and trace the process
 */

#include <errno.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/stat.h>
#include <linux/wait.h>

#include "plan.h"
#include "sys.h"

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall helper_main\n\thlt\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x0, sp\n\tbl helper_main\n\tbrk #0\n");
#endif

/* The compiler may turn loops and initialisers into calls of these two. */
void *memset(void *to, int value, size_t size)
{
    for (char *p = to; size; size--)
        *p++ = (char)value;
    return to;
}

void *memcpy(void *to, const void *from, size_t size)
{
    const char *q = from;
    for (char *p = to; size; size--)
        *p++ = *q++;
    return to;
}

static _Noreturn void leave(int status)
{
    for (;;)
        PC_CALL(exit_group, status);
}

static int number(const char *digits)
{
    unsigned value = 0;

    while (*digits >= '0' && *digits <= '9')
        value = value * 10 + (unsigned)(*digits++ - '0');
    return (int)value;
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static void block_all_signals(void)
{
    uint64_t all = ~0ULL;

    PC_CALL(rt_sigprocmask, 0 /* SIG_BLOCK */, &all, NULL, 8);
}

/* What init and join tell Python. */
struct report { int32_t kind, error, detail, syscall; };
enum { REPORT_RUNNING = 1, REPORT_FAILED, REPORT_ENDED, REPORT_FORKED, REPORT_INSIDE };

static void tell(int fd, int kind, int error, int detail, int syscall)
{
    struct report report = { kind, error, detail, syscall };

    PC_CALL(write, fd, &report, sizeof report);
}

/* ---- init -------------------------------------------------------------------------------------------------------- */

/* Runs in the child of init. Only comes back by telling why on `result`. */
static void run_command(char **candidates, int count, char **argv, char **envp, int result)
{
    int32_t found[2] = { ENOENT, -1 }; /* errno, index of the candidate */
    uint64_t none = 0;
    int group = (int)PC_CALL(getpid, 0);

    PC_CALL(setpgid, 0, 0);
    PC_CALL(ioctl, 0, 0x5410 /* TIOCSPGRP; SIGTTOU is still blocked; fails where 0 is no terminal */, &group);
    PC_CALL(rt_sigprocmask, 2 /* SIG_SETMASK */, &none, NULL, 8);
    for (int i = 0; i < count; i++) {
        int error = (int)-PC_CALL(execve, candidates[i], argv, envp);
        if (error == ENOENT && PC_CALL(faccessat, AT_FDCWD, candidates[i], 0) != 0)
            continue;
        if (error == ENOTDIR || error == ELOOP || error == ENAMETOOLONG)
            continue;
        if (found[1] < 0)
            found[0] = error, found[1] = i;
        if (error != EACCES && error != ENOENT)
            break;
    }
    PC_CALL(write, result, found, sizeof found);
    leave(127);
}

/* Reaps all that ended. The status of the command goes to Python; the end of process 1 ends all others. */
static void reap(long child, int report)
{
    int status;
    long pid;

    while ((pid = PC_CALL(wait4, -1, &status, WNOHANG, NULL)) > 0)
        if (pid == child) {
            tell(report, REPORT_ENDED, 0, status, 0);
            leave((status & 0x7f) ? 128 + (status & 0x7f) : status >> 8 & 0xff);
        }
}

/* Lets /proc/1/cmdline name the command, without the numbers and candidates before it. A last byte other than 0 tells the
 * kernel that the line ends at the first 0, and that its words may be apart by blanks (get_mm_cmdline, fs/proc/base.c). */
static void show_command(char **argv, char **words)
{
    char *to = argv[0], *from = to;

    while (*to)
        to++;
    for (; *words; words++) { /* they begin behind what is written */
        *to++ = ' ';
        for (from = *words; *from; from++)
            *to++ = *from;
    }
    for (; to < from; to++)
        *to = 0;
    *to = '.';
}

/* argv: pycontain-init REPORT_FD COUNT CANDIDATE... ARGUMENT... */
static void init_main(int argc, char **argv, char **envp)
{
    int report = number(argv[1]), count = number(argv[2]), result[2];
    int32_t found[2];
    uint64_t all = ~0ULL;
    siginfo_t info;
    long child;

    if (argc < 4 + count)
        leave(125);
    block_all_signals();
    PC_CALL(prctl, PR_SET_NAME, "pycontain-init", 0, 0, 0);
    PC_CALL(fcntl, report, 2 /* F_SETFD */, 1 /* FD_CLOEXEC */);
    if (PC_CALL(pipe2, result, O_CLOEXEC) < 0)
        leave(125);
    child = PC_CALL(clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        run_command(argv + 3, count, argv + 3 + count, envp, result[1]);
    show_command(argv, argv + 3 + count);
    PC_CALL(close, result[1]);
    for (int fd = 0; fd < 3; fd++) /* the command's streams end when it closes them, not when init does */
        PC_CALL(close, fd);
    if (child < 0 || PC_CALL(read, result[0], found, sizeof found) > 0) {
        tell(report, REPORT_FAILED, child < 0 ? (int)-child : found[0], child < 0 ? -1 : found[1],
             child < 0 ? __NR_clone : __NR_execve);
        leave(127);
    }
    PC_CALL(close, result[0]);
    tell(report, REPORT_RUNNING, 0, 0, 0);
    for (;;) {
        long signal = PC_CALL(rt_sigtimedwait, &all, &info, NULL, 8);
        if (signal == SIGCHLD)
            reap(child, report);
        else if (signal > 0) /* what a terminal's keys mean goes to the whole group, as a terminal sends it */
            PC_CALL(kill, signal == SIGINT || signal == SIGQUIT ? -child : child, signal);
    }
}

/* ---- guard ------------------------------------------------------------------------------------------------------- */

/* One task in the owner's table: a file that the owner writes (pycontain/runtimes/owner.py) and others read. Entry 0 is
 * no task: its pid is the number of the last entry that was ever used. */
struct entry {
    uint32_t state;        /* 0 free, 1 being made or running, 2 no task but a note for a later process */
    int32_t pid;           /* 0 until it is known */
    uint64_t pidfd_inode;  /* tells the process from a later one of the same number, where the kernel has pidfs (6.9) */
    char kill_file[240];   /* cgroup.kill (v2) or tasks (v1) of a task without a pid namespace of its own, else "" */
};

static void kill_process(const struct entry *entry)
{
    struct statx st;
    long fd = PC_CALL(pidfd_open, entry->pid, 0);

    if (fd < 0)
        return;
    if (!entry->pidfd_inode
        || (PC_CALL(statx, fd, "", 0x1000 /* AT_EMPTY_PATH */, STATX_INO, &st) == 0 && st.stx_ino == entry->pidfd_inode))
        PC_CALL(pidfd_send_signal, fd, SIGKILL, NULL, 0);
    PC_CALL(close, fd);
}

/* Kills each pid listed in a v1 `tasks` file; returns how many bytes were there. */
static long kill_listed(const char *path)
{
    char text[4096];
    long fd = PC_CALL(openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC), total = 0, length;
    int pid = 0;

    if (fd < 0)
        return 0;
    while ((length = PC_CALL(read, fd, text, sizeof text)) > 0) {
        total += length;
        for (long i = 0; i < length; i++) {
            if (text[i] >= '0' && text[i] <= '9') {
                pid = pid * 10 + text[i] - '0';
                continue;
            }
            if (pid > 1)
                PC_CALL(kill, pid, SIGKILL);
            pid = 0;
        }
    }
    PC_CALL(close, fd);
    return total;
}

static void kill_group(const char *path)
{
    long fd, ret = -1;
    size_t length = 0;

    while (path[length])
        length++;
    if (length >= 4 && same(path + length - 4, "kill")) {
        fd = PC_CALL(openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0) {
            ret = PC_CALL(write, fd, "1", 1);
            PC_CALL(close, fd);
        }
        (void)ret;
        return;
    }
    for (int i = 0; i < 1000 && kill_listed(path) > 0; i++)
        PC_CALL(sched_yield, 0);
}

/* argv: pycontain-guard OWNER_PIDFD TABLE_FD COUNT */
static void guard_main(int argc, char **argv)
{
    struct { int fd; short events, revents; } owner = { 0, 1 /* POLLIN */, 0 };
    const struct entry *table;
    int capacity;

    if (argc != 4)
        leave(125);
    owner.fd = number(argv[1]);
    capacity = number(argv[3]);
    block_all_signals();
    PC_CALL(prctl, PR_SET_NAME, "pycontain-guard", 0, 0, 0);
    PC_CALL(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    table = (void *)PC_CALL(mmap, NULL, capacity * sizeof *table, PROT_READ, MAP_SHARED, number(argv[2]), 0);
    if ((unsigned long)table > -4096UL)
        leave(125);
    if (PC_CALL(clone, SIGCHLD, 0, 0, 0, 0) != 0) /* not a child of the owner: its wait() never sees the guard */
        leave(0);
    PC_CALL(setsid, 0);
    while (PC_CALL(ppoll, &owner, 1, NULL, NULL, 8) < 0)
        ;
    for (int pass = 0; pass < 2; pass++) /* the second is for what was forked during the first */
        for (int i = 1; i <= table[0].pid && i < capacity; i++) {
            if (table[i].state != 1)
                continue;
            if (table[i].pid > 1)
                kill_process(&table[i]);
            if (table[i].kill_file[0])
                kill_group(table[i].kill_file);
        }
    leave(0);
}

/* ---- pause ------------------------------------------------------------------------------------------------------- */

/* argv: pycontain-pause OWNER_PIDFD
 * Signals keep their default actions: systemd ends the scope with SIGTERM, the owner with SIGKILL. */
static void pause_main(int argc, char **argv)
{
    struct { int fd; short events, revents; } owner = { 0, 1 /* POLLIN */, 0 };
    uint64_t none = 0;

    if (argc != 2)
        leave(125);
    owner.fd = number(argv[1]);
    PC_CALL(prctl, PR_SET_NAME, "pycontain-pause", 0, 0, 0);
    PC_CALL(setsid, 0); /* Ctrl-C is for the owner */
    PC_CALL(chdir, "/");
    if (owner.fd > 0)
        PC_CALL(close_range, 0, owner.fd - 1, 0);
    PC_CALL(close_range, owner.fd + 1, ~0U, 0);
    PC_CALL(rt_sigprocmask, 2 /* SIG_SETMASK */, &none, NULL, 8);
    while (PC_CALL(ppoll, &owner, 1, NULL, NULL, 8) < 0)
        ;
    leave(0);
}

/* ---- join -------------------------------------------------------------------------------------------------------- */

static int join_socket;

/* A message to Python, struct MESSAGE of pycontain/runtimes/join.py. */
static void report(int kind, int error, int detail, int syscall, int step)
{
    int32_t message[5] = { kind, error, detail, syscall, step };

    PC_CALL(write, join_socket, message, sizeof message);
}

/* PC_FORK: the child, a sibling of this process, goes on, and this process ends. Python gets the child's pidfd. */
static long join_fork(int held)
{
    int32_t message[5] = { REPORT_FORKED, 0, 0, 0, 0 };
    char byte;
    int fd = -1;
    long pid = PC_CALL(clone, SIGCHLD | CLONE_PARENT | CLONE_PIDFD, 0, &fd, 0, 0);

    if (pid < 0)
        return pid;
    if (pid > 0) {
        message[2] = (int32_t)pid;
        if (pc_send_fd(join_socket, fd, message, sizeof message) < 0) {
            PC_CALL(pidfd_send_signal, fd, SIGKILL, NULL, 0);
            leave(125);
        }
        leave(0);
    }
    report(REPORT_INSIDE, 0, (int)PC_CALL(getpid, 0), 0, 0);
    return !held || PC_CALL(read, join_socket, &byte, 1) == 1 ? 0 : -EOWNERDEAD;
}

/* argv: pycontain-join SOCKET_FD MEMORY_FD PLAN_SIZE COMMAND_SIZE POINTERS
 * The memory file holds the context, the plan and the command, each beginning at a multiple of 16. */
static void join_main(int argc, char **argv)
{
    struct pc_execution execution = { 0 };
    size_t plan_size, command_size, pointers, at;
    char *memory;

    if (argc != 6)
        leave(125);
    PC_CALL(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    block_all_signals();
    join_socket = number(argv[1]);
    plan_size = (size_t)number(argv[3]);
    command_size = (size_t)number(argv[4]);
    pointers = (size_t)number(argv[5]);
    at = (sizeof(struct pc_context) + 15) & ~(size_t)15;
    memory = (void *)PC_CALL(mmap, NULL, at + plan_size + 16 + command_size, PROT_READ | PROT_WRITE, MAP_PRIVATE,
                             number(argv[2]), 0);
    execution.pointers = (void *)PC_CALL(mmap, NULL, pointers * sizeof(char *), PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if ((unsigned long)memory > -4096UL || (unsigned long)execution.pointers > -4096UL) {
        report(REPORT_FAILED, ENOMEM, -1, __NR_mmap, -1);
        leave(125);
    }
    PC_CALL(close, number(argv[2]));
    PC_CALL(fcntl, join_socket, 2 /* F_SETFD */, 1 /* FD_CLOEXEC */);
    execution.context = (struct pc_context *)memory;
    execution.plan = (const struct pc_plan *)(memory + at);
    execution.command = (const struct pc_command *)(memory + at + ((plan_size + 15) & ~(size_t)15));
    execution.fork = join_fork;
    execution.context->go = 1;
    execution.context->failed = -1;
    execution.context->detail = -1;
    if (pc_check_plan(execution.plan, plan_size) < 0 || pc_check_command(execution.command, command_size) < 0
        || (size_t)execution.command->argc + execution.command->envc + 2 > pointers)
        leave(125);
    if (pc_execute(&execution) != 0) {
        const struct pc_context *c = execution.context;
        report(REPORT_FAILED, c->error, c->detail, c->syscall, c->failed);
        leave(127);
    }
    leave(0);
}

__attribute__((used)) void helper_main(long *stack)
{
    int argc = (int)stack[0];
    char **argv = (char **)(stack + 1), **envp = argv + argc + 1;

    if (argc >= 3 && same(argv[0], "pycontain-init"))
        init_main(argc, argv, envp);
    else if (argc >= 1 && same(argv[0], "pycontain-guard"))
        guard_main(argc, argv);
    else if (argc >= 1 && same(argv[0], "pycontain-join"))
        join_main(argc, argv);
    else if (argc >= 1 && same(argv[0], "pycontain-pause"))
        pause_main(argc, argv);
    leave(125);
}

/* The parent's side of a start: a child that shares this process's memory executes a plan.
 *
 * CLONE_VM makes a start cost the same in a process of any size. The child has its own stack, all its signals are
 * blocked, it makes raw system calls only, and the memory it uses is kept until the kernel says that the child has
 * left it: CLONE_CHILD_CLEARTID sets `alive` to 0 when the child executes a program or ends.
 *
 * CLONE_VFORK is what keeps this process safe from the child's limits. Without it the kernel takes the two for equal
 * owners of the memory: an OOM in the child's cgroup kills both (__oom_kill_process, mm/oom_kill.c, spares only a child
 * "in the middle of vfork"), and the child's oom_score_adj becomes ours (__set_oom_adj, fs/proc/base.c). As the thread
 * that calls it is suspended until the child executes, and ours must write id maps and let the child go meanwhile, a
 * thread of its own calls it, the spawner: made for one start, without libc, and gone when the child has executed.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "plan.h"
#include "sys.h"

#define GUARD_SIZE 4096
#define STACK_SIZE 65536 /* the deepest path needs about 5 KiB */
#define SPAWNER_STACK_SIZE 16384
#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif

struct pc_arena {
    struct pc_context context;
    struct pc_execution execution;
    struct clone_args child;
    int32_t begun;   /* futex: 1 once the child runs, or could not be made (context.pid is -errno then) */
    int32_t spawner; /* futex: 1 while the spawner uses this memory, set to 0 by the kernel (CLONE_CHILD_CLEARTID) */
    size_t pointers, mapped;
    char *stacks;    /* that of the spawner, a guard page, that of the child */
    const char *vector[];
};

struct pc_arena *pc_arena_new(size_t pointers)
{
    size_t head = sizeof(struct pc_arena) + pointers * sizeof(char *), size;
    struct pc_arena *arena;
    char *memory;

    if (pointers > (size_t)1 << 24)
        return NULL;
    head = (head + 4095) & ~(size_t)4095;
    size = head + GUARD_SIZE + SPAWNER_STACK_SIZE + GUARD_SIZE + STACK_SIZE;
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    arena = (struct pc_arena *)memory;
    arena->pointers = pointers;
    arena->mapped = size;
    arena->stacks = memory + head + GUARD_SIZE;
    if (mprotect(memory + head, GUARD_SIZE, PROT_NONE) != 0
        || mprotect(arena->stacks + SPAWNER_STACK_SIZE, GUARD_SIZE, PROT_NONE) != 0) {
        munmap(memory, size);
        return NULL;
    }
    return arena;
}

/* The spawner ends as soon as the child has executed, or ended. */
static void await_spawner(struct pc_arena *arena)
{
    while (__atomic_load_n(&arena->spawner, __ATOMIC_ACQUIRE))
        pc_futex_wait(&arena->spawner, 1, 1000);
}

/* Neither the child nor the spawner returns from its functions, whose red zones stay poisoned. */
static void unpoison_stacks(struct pc_arena *arena)
{
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(arena->stacks, SPAWNER_STACK_SIZE + GUARD_SIZE + STACK_SIZE);
#else
    (void)arena;
#endif
}

void pc_arena_free(struct pc_arena *arena)
{
    if (!arena)
        return;
    await_spawner(arena);
    unpoison_stacks(arena);
    munmap(arena, arena->mapped);
}

size_t pc_arena_pointers(const struct pc_arena *arena)
{
    return arena->pointers;
}

struct pc_context *pc_arena_context(struct pc_arena *arena)
{
    return &arena->context;
}

/* Called by the child, and by the spawner when there is none any more. */
static void begin(struct pc_arena *arena)
{
    __atomic_store_n(&arena->begun, 1, __ATOMIC_RELEASE);
    pc_futex_wake(&arena->begun);
}

/* Runs in the child, on its own stack. */
static void child_main(struct pc_arena *arena)
{
    begin(arena);
    int failed = pc_execute(&arena->execution);

    PC_CALL(exit_group, failed ? 127 : 0);
}

/* clone3(2) for a child or thread that goes on in `main`: only assembly can come back from it on another stack. */
static long clone_to(struct clone_args *args, void (*main)(struct pc_arena *), struct pc_arena *arena)
{
#if defined(__x86_64__)
    long ret;
    register void *entry __asm__("r12") = (void *)main;
    register void *argument __asm__("r13") = arena;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %[argument], %%rdi\n\t"
                     "call *%[entry]\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(ret)
                     : "a"(__NR_clone3), "D"(args), "S"(sizeof *args), [entry] "r"(entry), [argument] "r"(argument)
                     : "rcx", "r11", "memory");
    return ret;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = __NR_clone3;
    register long x0 __asm__("x0") = (long)args;
    register long x1 __asm__("x1") = sizeof *args;
    register void *entry __asm__("x10") = (void *)main;
    register void *argument __asm__("x11") = arena;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t"
                     "mov x0, %[argument]\n\t"
                     "blr %[entry]\n\t"
                     "brk #0\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), [entry] "r"(entry), [argument] "r"(argument)
                     : "x30", "memory");
    return x0;
#endif
}

/* Runs in the spawner: suspended in clone3 until the child has executed, or ended. */
static void spawner_main(struct pc_arena *arena)
{
    long pid = clone_to(&arena->child, child_main, arena);

    if (pid < 0)
        arena->context.pid = (int32_t)pid;
    begin(arena);
    PC_CALL(exit, 0);
}

static uint64_t address(const volatile void *pointer)
{
    return (uint64_t)(uintptr_t)pointer;
}

static long start_spawner(struct pc_arena *arena)
{
    struct clone_args args = {
        .flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID,
        .child_tid = address(&arena->spawner),
        .stack = address(arena->stacks),
        .stack_size = SPAWNER_STACK_SIZE,
    };
    uint64_t all = ~0ULL, before;
    long ret;

    arena->begun = 0;
    arena->spawner = 1;
    PC_CALL(rt_sigprocmask, SIG_SETMASK, &all, &before, 8);
    ret = clone_to(&args, spawner_main, arena);
    PC_CALL(rt_sigprocmask, SIG_SETMASK, &before, NULL, 8);
    if (ret < 0)
        arena->spawner = 0;
    return ret;
}

/* Clones in the calling thread, which sleeps until the child has executed, or ended: the kernel writes the child's pid
 * to `word` before the child runs, so that nobody has to hold it back to note who it is. */
static long start_here(struct pc_arena *arena, uint64_t word)
{
    uint64_t all = ~0ULL, before;
    long pid;

    arena->context.go = 1;
    arena->child.parent_tid = word;
    PC_CALL(rt_sigprocmask, SIG_SETMASK, &all, &before, 8);
    pid = clone_to(&arena->child, child_main, arena);
    PC_CALL(rt_sigprocmask, SIG_SETMASK, &before, NULL, 8);
    arena->context.pid = (int32_t)pid;
    return pid;
}

/* Starts a child that executes the plan. The plan and the command must stay in place until pc_settled returns 1.
 * The caller has filled context->fds. With `pid_word`, the address of an int32_t that gets the pid, it returns once the
 * child has executed, or ended; without, at once, with the child held at PC_AWAIT until pc_release.
 * Returns the child's pid (its pidfd is in the context) or -errno. */
int pc_start(struct pc_arena *arena, const void *plan, size_t plan_size, const void *command, size_t command_size,
             uint64_t clone_flags, int cgroup_fd, uint64_t pid_word)
{
    struct pc_context *context = &arena->context;
    const struct pc_command *words = command;
    long ret;

    if (pc_check_plan(plan, plan_size) < 0 || pc_check_command(command, command_size) < 0
        || (size_t)words->argc + words->envc + 2 > arena->pointers)
        return -EINVAL;
    await_spawner(arena);
    unpoison_stacks(arena);
    arena->execution = (struct pc_execution){ plan, command, context, arena->vector, NULL };
    context->go = 0;
    context->failed = -1;
    context->error = context->syscall = 0;
    context->detail = context->pidfd = -1;
    context->pid = 0;
    context->alive = 1;
    arena->child = (struct clone_args){
        /* no handler of ours can run in the child: CLONE_CLEAR_SIGHAND (Linux 5.5) */
        .flags = clone_flags | CLONE_VM | CLONE_VFORK | CLONE_CLEAR_SIGHAND | CLONE_PIDFD | CLONE_PARENT_SETTID
                 | CLONE_CHILD_CLEARTID,
        .pidfd = address(&context->pidfd),
        .parent_tid = address(&context->pid),
        .child_tid = address(&context->alive),
        .exit_signal = SIGCHLD,
        .stack = address(arena->stacks + SPAWNER_STACK_SIZE + GUARD_SIZE),
        .stack_size = STACK_SIZE,
    };
    if (cgroup_fd >= 0) {
        arena->child.flags |= CLONE_INTO_CGROUP;
        arena->child.cgroup = (uint64_t)cgroup_fd;
    }
    ret = pid_word ? start_here(arena, pid_word) : start_spawner(arena);
    while (ret >= 0 && !__atomic_load_n(&arena->begun, __ATOMIC_ACQUIRE))
        pc_futex_wait(&arena->begun, 0, 1000);
    if (ret < 0)
        context->pid = (int32_t)ret;
    if (context->pid < 0)
        context->alive = 0;
    return context->pid;
}

/* Lets the child pass PC_AWAIT. */
void pc_release(struct pc_arena *arena)
{
    __atomic_store_n(&arena->context.go, 1, __ATOMIC_RELEASE);
    pc_futex_wake(&arena->context.go);
}

/* Waits until the child no longer uses the arena. 1: it has executed its program, or ended; 0: the time is over. */
int pc_settled(struct pc_arena *arena, int milliseconds)
{
    int32_t *alive = &arena->context.alive;

    if (__atomic_load_n(alive, __ATOMIC_ACQUIRE))
        pc_futex_wait(alive, 1, milliseconds);
    return !__atomic_load_n(alive, __ATOMIC_ACQUIRE);
}

const char *pc_syscall_name(int nr)
{
#define NAME(name) case __NR_##name: return #name;
    switch (nr) {
    NAME(ppoll) NAME(write) NAME(openat) NAME(openat2) NAME(mkdirat) NAME(mknodat) NAME(symlinkat) NAME(statx) NAME(setns)
    NAME(unshare) NAME(mount) NAME(umount2) NAME(open_tree) NAME(move_mount) NAME(fsopen) NAME(fsconfig) NAME(fsmount)
    NAME(mount_setattr) NAME(pivot_root) NAME(chdir) NAME(fchdir) NAME(getcwd) NAME(socket) NAME(ioctl) NAME(keyctl) NAME(prctl)
    NAME(setgroups) NAME(setresgid) NAME(setresuid) NAME(capset) NAME(seccomp) NAME(sendmsg) NAME(rt_sigaction)
    NAME(rt_sigprocmask) NAME(fcntl) NAME(dup3) NAME(close_range) NAME(execve) NAME(execveat) NAME(sethostname)
    NAME(setdomainname) NAME(prlimit64) NAME(ioprio_set) NAME(setsid) NAME(umask) NAME(clone3) NAME(clone) NAME(mmap)
    }
    return "";
}

/* The helper executable (helper.c), carried in this library's read-only data. */
__asm__(".pushsection .rodata\n"
        ".balign 16\n"
        "pc_helper_begin: .incbin \"" PC_HELPER_PATH "\"\n"
        "pc_helper_end:\n"
        ".popsection\n");
extern const char pc_helper_begin[] __attribute__((visibility("hidden")));
extern const char pc_helper_end[] __attribute__((visibility("hidden")));

const char *pc_helper(size_t *size)
{
    *size = (size_t)(pc_helper_end - pc_helper_begin);
    return pc_helper_begin;
}

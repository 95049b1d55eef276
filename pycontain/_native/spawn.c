/* The parent's side of a start: a child that shares this process's memory executes a plan.
 *
 * CLONE_VM makes a start cost the same in a process of any size. The child has its own stack, all its signals are
 * blocked, it makes raw system calls only, and the memory it uses is kept until the kernel says that the child has
 * left it: CLONE_CHILD_CLEARTID sets `alive` to 0 when the child executes a program or ends.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "plan.h"
#include "sys.h"

#define GUARD_SIZE 4096
#define STACK_SIZE 65536 /* the deepest path needs about 10 KiB */

struct pc_arena {
    struct pc_context context;
    struct pc_execution execution;
    size_t pointers, mapped;
    char *stack;
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
    size = head + GUARD_SIZE + STACK_SIZE;
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    arena = (struct pc_arena *)memory;
    arena->pointers = pointers;
    arena->mapped = size;
    arena->stack = memory + size;
    if (mprotect(memory + head, GUARD_SIZE, PROT_NONE) != 0) {
        munmap(memory, size);
        return NULL;
    }
    return arena;
}

void pc_arena_free(struct pc_arena *arena)
{
    if (arena)
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

/* Runs in the child, on its own stack. */
static void child_main(struct pc_arena *arena)
{
    int failed = pc_execute(&arena->execution);

    PC_CALL(exit_group, failed ? 127 : 0);
}

/* clone3(2) for a child that goes on in child_main: only assembly can come back from it on another stack. */
static long clone_child(struct clone_args *args, struct pc_arena *arena)
{
#if defined(__x86_64__)
    long ret;
    register void *entry __asm__("r12") = (void *)child_main;
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
    register void *entry __asm__("x10") = (void *)child_main;
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

/* Starts a child that executes the plan. The plan and the command must stay in place until pc_settled returns 1.
 * The caller has filled context->fds. Returns the child's pid (its pidfd is in the context) or -errno. */
int pc_start(struct pc_arena *arena, const void *plan, size_t plan_size, const void *command, size_t command_size,
             uint64_t clone_flags, int cgroup_fd)
{
    struct pc_context *context = &arena->context;
    const struct pc_command *words = command;
    uint64_t all = ~0ULL, before;
    long pid;

    if (pc_check_plan(plan, plan_size) < 0 || pc_check_command(command, command_size) < 0
        || (size_t)words->argc + words->envc + 2 > arena->pointers)
        return -EINVAL;
    arena->execution = (struct pc_execution){ plan, command, context, arena->vector, NULL };
    context->go = 0;
    context->failed = -1;
    context->error = context->syscall = 0;
    context->detail = context->pidfd = -1;
    context->alive = 1;

    struct clone_args args = {
        .flags = clone_flags | CLONE_VM | CLONE_PIDFD | CLONE_CHILD_CLEARTID,
        .pidfd = (uint64_t)(uintptr_t)&context->pidfd,
        .child_tid = (uint64_t)(uintptr_t)&context->alive,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)(arena->stack - STACK_SIZE),
        .stack_size = STACK_SIZE,
    };
    if (cgroup_fd >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)cgroup_fd;
    }
    PC_CALL(rt_sigprocmask, SIG_SETMASK, &all, &before, 8);
    pid = clone_child(&args, arena);
    PC_CALL(rt_sigprocmask, SIG_SETMASK, &before, NULL, 8);
    if (pid < 0)
        context->alive = 0;
    context->pid = (int32_t)pid;
    return (int)pid;
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
    NAME(mount_setattr) NAME(pivot_root) NAME(chdir) NAME(fchdir) NAME(socket) NAME(ioctl) NAME(keyctl) NAME(prctl)
    NAME(setgroups) NAME(setresgid) NAME(setresuid) NAME(capset) NAME(seccomp) NAME(sendmsg) NAME(rt_sigaction)
    NAME(rt_sigprocmask) NAME(fcntl) NAME(dup3) NAME(close_range) NAME(execve) NAME(execveat) NAME(sethostname)
    NAME(setdomainname) NAME(prlimit64) NAME(setsid) NAME(umask) NAME(clone3) NAME(clone)
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

/* What Python sees of the C core. Read by the C compiler and by cffi, hence without directives but plain #define.
 *
 * A plan is one flat, read-only buffer without pointers: a header, an array of steps, then the bytes the steps name
 * by offset. It can therefore be executed in the memory of the process that made it (a child of clone3 with CLONE_VM)
 * and in a process of its own that was handed a copy (the helper, for joins).
 */

#define PC_PLAN_MAGIC 0x6e616c70
#define PC_COMMAND_MAGIC 0x646d6d63
#define PC_SLOTS 1024

/* Operations. `fd`, `fd2`, `out` are indices into the table of descriptors of a start ("slots"), -1 is none; `s1`, `s2` are
 * offsets of strings (0 is none), `len` the length of the data at `s2`; n1, n2, n3 are numbers. */
enum pc_op {
    PC_AWAIT = 1,     /* wait until the parent lets go; end when the owner (pidfd in fd) is gone */
    PC_PDEATHSIG,     /* n1 = signal */
    PC_JOIN,          /* setns(fd, n1) */
    PC_UNSHARE,       /* unshare(n1) */
    PC_FORK,          /* go on in a child, a sibling of this process (helper only): makes a joined pid namespace ours; n1: held
                         until the parent's word */
    PC_ENTER,         /* write "0" to the n2 slots from fd2 on that are filled: v1 `tasks` files */
    PC_WRITE_FILE,    /* open s1 below fd (openat2 flags n1, resolve n2), write the data */
    PC_PROPAGATION,   /* the whole mount tree at "/" gets propagation n1 */
    PC_OPEN,          /* out = openat2(fd, s1, flags n1, resolve n2); flags: PC_NULL_DEVICE */
    PC_TREE,          /* out = open_tree(fd, s1): a detached clone; flags: PC_RECURSIVE; resolve n2 */
    PC_FSMOUNT,       /* out = a new file system of type s1 with n3 pairs key, value at s2; mount attributes n1 */
    PC_OVERLAY,       /* out = overlay: n2 lower directories from slot fd2 on, s1 upper and s2 work in fd; attributes n1 */
    PC_SETATTR,       /* mount_setattr(fd): set n1, clear n2, propagation n3; flags: PC_RECURSIVE */
    PC_ATTACH,        /* move the mount fd onto s1 in the root fd2 (or this process's root); with fd2, made if missing */
    PC_MKDIR,         /* mkdirat(fd, s1, n1) */
    PC_MKDIRS,        /* create s1 and its parents inside the root fd, mode n1 */
    PC_SYMLINK,       /* symlinkat(s2, fd, s1) */
    PC_MKNOD,         /* mknodat(fd, s1, mode n1, device n2) */
    PC_MASK,          /* hide s1 of root fd: a directory by a read-only clone of out, anything else by one of fd2 */
    PC_READONLY,      /* make s1 of root fd read-only, with what is mounted below */
    PC_PIVOT,         /* pivot_root to fd and detach the old root */
    PC_HOSTNAME,      /* sethostname(s2, len) */
    PC_DOMAINNAME,    /* setdomainname(s2, len) */
    PC_LOOPBACK,      /* bring `lo` up */
    PC_RLIMIT,        /* resource n1, soft n2, hard n3 */
    PC_IO_PRIORITY,   /* of this process: n1 = class << 13 | level, see ioprio_set(2) */
    PC_SOFT_LIMITS,   /* every soft limit gets the kernel's default, or the hard limit where that is lower */
    PC_SETSID,
    PC_KEYRING,       /* join a new, anonymous session keyring */
    PC_UMASK,         /* n1 */
    PC_BOUNDING,      /* keep only the capabilities of mask n1 in the bounding set */
    PC_IDENTITY,      /* setgroups(data), setresgid(n2), setresuid(n1); flags: PC_KEEP_CAPS, PC_KEEP_GROUPS */
    PC_CAPSET,        /* effective n1, permitted n2, inheritable n3 */
    PC_AMBIENT,       /* ambient set = n1 */
    PC_NO_NEW_PRIVS,
    PC_SECCOMP,       /* the data is an array of struct sock_filter; n1 = flags of seccomp(2) */
    PC_CHDIR,         /* s1, resolved inside the root */
    PC_TERMINAL,      /* out = the terminal of a new pair from s1 (ptmx) in root fd, the other end is sent to fd2; n1 rows, n2 columns */
    PC_CONTROL,       /* fd becomes the controlling terminal */
    PC_SIGNALS,       /* every signal gets its default action and is unblocked */
    PC_STDIO,         /* slots n1, n2, n3 become descriptors 0, 1, 2 */
    PC_CLOSE_FDS,     /* all descriptors from n1 on are closed at exec */
    PC_KEEP,          /* fd stays open at exec */
    PC_EXEC,          /* the command: its candidates in turn, or, with fd, execveat(fd) */
    PC_OPS
};

enum pc_flag {
    PC_RECURSIVE = 1,
    PC_KEEP_CAPS = 4,
    PC_KEEP_GROUPS = 8,
    PC_USERXATTR = 16,
    PC_NULL_DEVICE = 32,
    PC_VOLATILE = 64
};

struct pc_step {
    uint32_t op, flags;
    int32_t fd, fd2, out;
    uint32_t s1, s2, len;
    uint64_t n1, n2, n3;
};

struct pc_plan {
    uint32_t magic, size, steps, reserved;
    /* struct pc_step[steps], then bytes, the last of which is 0 */
};

/* The command: argc + envc + candidates strings, each ended by 0. */
struct pc_command {
    uint32_t magic, size, argc, envc, candidates, reserved;
};

/* One start. Lives in memory shared by parent and child until the child executes or ends. */
struct pc_context {
    int32_t go;          /* futex: the parent sets it to 1 to let the child pass PC_AWAIT */
    int32_t alive;       /* futex: 1 while the child uses this memory, set to 0 by the kernel (CLONE_CHILD_CLEARTID) */
    int32_t failed;      /* index of the step that failed, -1 for none */
    int32_t error;       /* its errno */
    int32_t syscall;     /* its system call, see pc_syscall_name */
    int32_t detail;      /* PC_EXEC: index of the candidate that was found but could not be executed, -1 when none was */
    int32_t pid;         /* of the child, as its parent sees it */
    int32_t pidfd;
    int32_t fds[PC_SLOTS];
};

struct pc_arena;         /* context, stack and scratch memory of one start */

int pc_check_plan(const void *plan, size_t size);
int pc_check_command(const void *command, size_t size);

struct pc_arena *pc_arena_new(size_t pointers);
void pc_arena_free(struct pc_arena *arena);
size_t pc_arena_pointers(const struct pc_arena *arena);
struct pc_context *pc_arena_context(struct pc_arena *arena);

int pc_start(struct pc_arena *arena, const void *plan, size_t plan_size, const void *command, size_t command_size,
             uint64_t clone_flags, int cgroup_fd, uint64_t pid_word);
void pc_release(struct pc_arena *arena);
int pc_settled(struct pc_arena *arena, int milliseconds);

const char *pc_syscall_name(int nr);
const char *pc_helper(size_t *size);

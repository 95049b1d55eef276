/* System calls as Python sees them: one thin function each, which returns the kernel's answer, -errno on failure.
 *
 * Read by the C compiler and by cffi, hence without directives. cffi releases the GIL around every call. The typed side
 * is in pycontain/linux; the start path does not use these (see api.h).
 */

/* Namespaces. pc_fork is clone3 with the semantics of os.fork: 0 in the child, the pid in the parent. */
long pc_unshare(unsigned long flags);
long pc_setns(int fd, int type);
long pc_fork(unsigned long long namespaces);
long pc_ns_userns(int fd);
long pc_ns_parent(int fd);
long pc_ns_type(int fd);
long long pc_ns_owner_uid(int fd);
long pc_sethostname(const char *name, size_t length);
long pc_setdomainname(const char *name, size_t length);

/* Mounts. */
long pc_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
long pc_umount2(const char *target, int flags);
long pc_pivot_root(const char *new_root, const char *put_old);
long pc_open_tree(int dirfd, const char *path, unsigned int flags);
long pc_move_mount(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned int flags);
long pc_fsopen(const char *type, unsigned int flags);
long pc_fspick(int dirfd, const char *path, unsigned int flags);
long pc_fsconfig(int context, unsigned int command, const char *key, const char *value, int aux);
long pc_fsmount(int context, unsigned int flags, unsigned int attributes);
long pc_mount_setattr(int dirfd, const char *path, unsigned int flags, unsigned long long set,
                      unsigned long long clear, unsigned long long propagation, unsigned long long userns_fd);

/* Paths and descriptors. */
long pc_openat2(int dirfd, const char *path, unsigned long long flags, unsigned long long mode,
                unsigned long long resolve);
long pc_close_range(unsigned int first, unsigned int last, unsigned int flags);

/* Processes. pc_wait fills pid with 0 when WNOHANG was given and the process has not ended. */
struct pc_ended {
    int pid, code, status;
    long long user_us, system_us, max_rss_kb;
};
long pc_pidfd_open(int pid, unsigned int flags);
long pc_pidfd_send_signal(int pidfd, int signal);
long pc_pidfd_getfd(int pidfd, int fd);
long pc_wait(int pidfd, int options, struct pc_ended *ended);

/* Credentials and attributes of the calling thread. */
struct pc_capability_sets {
    unsigned long long effective, permitted, inheritable;
};
long pc_capset(const struct pc_capability_sets *sets);
long pc_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
long pc_join_session_keyring(const char *name);

/* BPF, for the devices of cgroup v2. `attributes` is a union bpf_attr of `size` bytes. */
long pc_bpf(int command, void *attributes, unsigned int size);

/* Layers (layers.c). Of tar: a number of a header's field, and a header of 512 bytes; 0, or what is wrong with it. */
enum { PC_TAR_CHECKSUM = 1, PC_TAR_NUMBER };
struct pc_tar_header {
    int type, gnu;
    long long mode, uid, gid, size, mtime, major, minor;
    int name_length, link_length;
    char name[260], link[100];
};
int pc_tar_number(const char *field, int length, long long *value);
int pc_tar_header(const char *block, struct pc_tar_header *header);

/* Creating one name in a directory, instead of whatever has it: EISDIR when that is a directory. -errno on failure, and
 * the name of the system call in the outcome. Owner, mode and times are set; extended attributes are the caller's. */
struct pc_attributes {
    unsigned int mode, uid, gid;
    int keep_owner;
    long long seconds;
    long nanoseconds;
};
struct pc_outcome {
    const char *call;
    int existed;
};
long pc_create_file(int parent, const char *name, const struct pc_attributes *attributes, const char *data,
                    size_t size, struct pc_outcome *outcome);
long pc_create_symlink(int parent, const char *name, const struct pc_attributes *attributes, const char *target,
                       struct pc_outcome *outcome);
long pc_create_node(int parent, const char *name, const struct pc_attributes *attributes, unsigned int major,
                    unsigned int minor, struct pc_outcome *outcome);
long pc_create_link(int parent, const char *name, int target_parent, const char *target, struct pc_outcome *outcome);

/* A new empty file, or a directory that may have existed; the attributes are set later. */
long pc_open_new(int parent, const char *name, struct pc_outcome *outcome);
long pc_open_directory(int parent, const char *name, struct pc_outcome *outcome);
long pc_set_attributes(int fd, const struct pc_attributes *attributes, struct pc_outcome *outcome);

/* Creates the regular files that come one after another at the beginning of `tar`, `size` bytes, as long as they are new
 * names right in the directory `parent`, whose names begin with `prefix`, and wholly there. Returns the bytes that were
 * used. When `names` is not NULL it receives the names, each with a NUL after it. */
struct pc_files {
    const char *prefix;
    size_t prefix_length;
    int keep_owner;
    long long most, count, bytes; /* the most entries; how many they were; the size of their data */
    char *names;
    size_t names_size, names_used;
};
size_t pc_create_files(int parent, const char *tar, size_t size, struct pc_files *files);

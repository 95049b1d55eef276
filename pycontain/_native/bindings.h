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

// Runs a command under conditions of sandboxes: sandbox WORD... -- COMMAND...
// Ends with 77, and says which condition it could not make.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct { const char *name; int number; } CALLS[] = {
#define CALL(name) {#name, SYS_##name}
    CALL(copy_file_range), CALL(faccessat2), CALL(close_range), CALL(fchmod), CALL(fchmodat),
    CALL(fchown), CALL(fchownat), CALL(fgetxattr), CALL(flistxattr), CALL(flock),
    CALL(fremovexattr), CALL(fsetxattr), CALL(linkat), CALL(openat2), CALL(prlimit64),
    CALL(renameat2), CALL(statx), CALL(symlinkat), CALL(syncfs), CALL(unshare), CALL(utimensat),
    CALL(clone), CALL(clone3), CALL(fadvise64), CALL(fallocate), CALL(getdents64), CALL(setsid), CALL(sendfile),
    CALL(pidfd_open), CALL(statfs), CALL(fstatfs), CALL(sched_getaffinity), CALL(mknodat), CALL(ioctl),
};
static const struct { const char *name; int number; } ERRNOS[] = {
    {"EPERM", EPERM}, {"ENOSYS", ENOSYS}, {"EACCES", EACCES}, {"EINVAL", EINVAL}, {"EXDEV", EXDEV},
    {"EAGAIN", EAGAIN}, {"EOVERFLOW", EOVERFLOW}, {"EIO", EIO}, {"EBADF", EBADF}, {"EOPNOTSUPP", EOPNOTSUPP},
};

static void give_up(const char *what) {
    fprintf(stderr, "sandbox: %s: %s\n", what, strerror(errno));
    exit(77);
}

static void must(long result, const char *what) {
    if (result < 0) give_up(what);
}

static void put(const char *path, const char *text) {
    int file = open(path, O_WRONLY);
    must(file, path);
    must(write(file, text, strlen(text)), path);
    close(file);
}

static void filter(struct sock_filter *code, unsigned short length) {
    struct sock_fprog program = {length, code};
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), "seccomp");
}

#define NUMBER BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define ARGUMENT BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0]))
#define UNLESS(number, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, skip)
#define ANSWER(errno_) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (errno_))
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

// CALL=ERRNO: the kernel answers a call so.
static void refuse(const char *word) {
    const char *equals = strchr(word, '=');
    int call = -1, answer = -1;
    for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++)
        if (strlen(CALLS[i].name) == (size_t)(equals - word) && !strncmp(word, CALLS[i].name, equals - word))
            call = CALLS[i].number;
    for (size_t i = 0; i < sizeof ERRNOS / sizeof *ERRNOS; i++)
        if (!strcmp(equals + 1, ERRNOS[i].name)) answer = ERRNOS[i].number;
    if (call < 0 || answer < 0) { fprintf(stderr, "sandbox: %s is unknown\n", word); exit(2); }
    struct sock_filter code[] = {NUMBER, UNLESS(call, 1), ANSWER(answer), ALLOW};
    filter(code, 4);
}

// Processes may be made, threads may not: so is a limit of processes that is reached by then.
static void no_threads(void) {
    struct sock_filter code[] = {
        NUMBER, UNLESS(SYS_clone3, 1), ANSWER(ENOSYS), UNLESS(SYS_clone, 3),
        ARGUMENT, BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 0, 1), ANSWER(EAGAIN), ALLOW,
    };
    filter(code, 8);
}

// The call that clones a file says that it did, and does nothing.
static void clones_nothing(void) {
    struct sock_filter code[] = {
        NUMBER, UNLESS(SYS_ioctl, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        UNLESS((unsigned)FICLONE, 1), ANSWER(0), ALLOW,
    };
    filter(code, 6);
}

static void landlock_rule(int rules, const char *path, unsigned long long allowed) {
    struct landlock_path_beneath_attr rule = {.allowed_access = allowed, .parent_fd = open(path, O_PATH)};
    must(rule.parent_fd, path);
    must(syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0), "landlock_add_rule");
    close(rule.parent_fd);
}

// Files are written below `folder` alone, and none moves to another folder: so was Landlock's first version.
static void landlock(const char *folder) {
    unsigned long long all = (1 << 13) - 1;
    unsigned long long read = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
    struct landlock_ruleset_attr handled = {.handled_access_fs = all};
    int rules = syscall(SYS_landlock_create_ruleset, &handled, sizeof handled, 0);
    must(rules, "landlock_create_ruleset");
    landlock_rule(rules, "/", read);
    landlock_rule(rules, "/dev/null", LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE);
    landlock_rule(rules, folder, all);
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    must(syscall(SYS_landlock_restrict_self, rules, 0), "landlock_restrict_self");
}

// One user is mapped, as root.
static void user_namespace(void) {
    char map[64];
    int uid = geteuid(), gid = getegid();
    must(unshare(CLONE_NEWUSER), "unshare user");
    put("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "0 %d 1\n", uid);
    put("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "0 %d 1\n", gid);
    put("/proc/self/gid_map", map);
}

static void without(const char *folder) {
    must(unshare(CLONE_NEWNS), "unshare mount");
    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private mounts");
    must(mount("none", folder, "tmpfs", 0, NULL), folder);
}

static void become(unsigned id) {
    must(setgid(id), "setgid");
    must(setuid(id), "setuid");
    must(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable");
}

static void limit(const char *word) {
    struct rlimit most;
    int which = *word == 'f' ? RLIMIT_NOFILE : *word == 'b' ? RLIMIT_FSIZE : RLIMIT_NPROC;
    most.rlim_cur = most.rlim_max = strtoull(strchr(word, '=') + 1, NULL, 10);
    must(setrlimit(which, &most), "setrlimit");
}

int main(int count, char **words) {
    for (int i = 1; i < count; i++) {
        const char *word = words[i], *value = strchr(word, '=');
        value = value ? value + 1 : "";
        if (!strcmp(word, "--")) {
            execvp(words[i + 1], words + i + 1);
            give_up(words[i + 1]);
        } else if (!strcmp(word, "no-threads")) no_threads();
        else if (!strcmp(word, "clones-nothing")) clones_nothing();
        else if (!strncmp(word, "landlock=", 9)) landlock(value);
        else if (!strcmp(word, "user-namespace")) user_namespace();
        else if (!strncmp(word, "without=", 8)) without(value);
        else if (!strncmp(word, "user=", 5)) become(strtoul(value, NULL, 10));
        else if (!strncmp(word, "umask=", 6)) umask(strtoul(value, NULL, 8));
        else if (!strncmp(word, "closed=", 7)) close(atoi(value));
        else if (!strcmp(word, "ignored-children")) signal(SIGCHLD, SIG_IGN);
        else if (!strcmp(word, "no-home")) unsetenv("HOME");
        else if (!strncmp(word, "files=", 6) || !strncmp(word, "bytes=", 6) || !strncmp(word, "processes=", 10))
            limit(word);
        else refuse(word);
    }
    return 2;
}

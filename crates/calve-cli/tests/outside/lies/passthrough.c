// A FUSE passthrough that lies and refuses.
//
//   passthrough MODES ROOT MOUNTPOINT [FUSE OPTION...]
//
// MODES is a list with commas. `OPERATION=ERRNO` refuses that operation (`fsync=EIO`); the other modes are
// the lies below. A mode that ends in `@` concerns only names that begin with `lie` (`stat=EIO@`, `twice@`).
// The file works by paths, because its only users are tests.
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define LATE_MS 500
#define PATH 8192

static const char *root, *modes;

static const char *base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// The text behind `name` and `separator` in the list of modes, if the mode is set for this path.
static const char *mode_of(const char *name, char separator, const char *path, char *value, size_t size) {
    size_t length = strlen(name);
    for (const char *at = modes; *at;) {
        size_t all = strcspn(at, ","), word = all;
        int special = word && at[word - 1] == '@';
        if (special) word--;
        if ((!special || (path && !strncmp(base(path), "lie", 3))) && word >= length && !strncmp(at, name, length)
            && (separator ? at[length] == separator && word > length : word == length)) {
            snprintf(value, size, "%.*s", (int)(word - length - (separator ? 1 : 0)), at + length + (separator ? 1 : 0));
            return value;
        }
        at += all + (at[all] == ',');
    }
    return NULL;
}

static int lies(const char *name, const char *path) {
    char value[64];
    return mode_of(name, 0, path, value, sizeof value) != NULL;
}

static int refusal(const char *operation, const char *path) {
    char value[64];
    if (!mode_of(operation, '=', path, value, sizeof value)) return 0;
    for (int number = 1; number < 134; number++) {
        const char *name = strerrorname_np(number);
        if (name && !strcmp(name, value)) return -number;
    }
    return -atoi(value);
}

#define REFUSED(operation, path)                                                                                       \
    do {                                                                                                               \
        int refused_ = refusal(operation, path);                                                                       \
        if (refused_) return refused_;                                                                                 \
    } while (0)
#define BELOW(name, path)                                                                                              \
    char name[PATH];                                                                                                   \
    snprintf(name, sizeof name, "%s%s", root, path)
#define ANSWER(call) return (call) ? -errno : 0

// Names that were made a moment ago: `late` does not find them yet.
static struct {
    char path[512];
    struct timespec when;
} made[64];
static unsigned made_count;
static pthread_mutex_t made_lock = PTHREAD_MUTEX_INITIALIZER;

static void note(const char *path) {
    if (!lies("late", path)) return;
    pthread_mutex_lock(&made_lock);
    snprintf(made[made_count % 64].path, sizeof made[0].path, "%s", path);
    clock_gettime(CLOCK_MONOTONIC, &made[made_count++ % 64].when);
    pthread_mutex_unlock(&made_lock);
}

static int is_late(const char *path) {
    if (!lies("late", path)) return 0;
    struct timespec now;
    int late = 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    pthread_mutex_lock(&made_lock);
    for (int at = 0; at < 64; at++) {
        long ms = (now.tv_sec - made[at].when.tv_sec) * 1000 + (now.tv_nsec - made[at].when.tv_nsec) / 1000000;
        late |= ms < LATE_MS && !strcmp(made[at].path, path);
    }
    pthread_mutex_unlock(&made_lock);
    return late;
}

static void owned(const char *real) {
    struct fuse_context *caller = fuse_get_context();
    if (lchown(real, caller->uid, caller->gid)) return;
}

static void whole_seconds(struct timespec *time, int two) {
    time->tv_nsec = 0;
    if (two) time->tv_sec &= ~1L;
}

static void distort(const char *path, struct stat *s) {
    static _Atomic unsigned long looks;
    if (S_ISREG(s->st_mode)) {
        if (lies("holes", path)) s->st_blocks = 0;
        if (lies("longer", path)) s->st_size += 1000;
        if (lies("shorter", path)) s->st_size /= 2;
    }
    if (lies("inode-0", path)) s->st_ino = 0;
    if (lies("inode-same", path)) s->st_ino = 7;
    if (lies("inode-changes", path)) s->st_ino = 1000 + looks++;
    if (lies("seconds", path) || lies("two-seconds", path)) {
        int two = lies("two-seconds", path);
        whole_seconds(&s->st_mtim, two);
        whole_seconds(&s->st_ctim, two);
        whole_seconds(&s->st_atim, two);
    }
    if (lies("ctime-is-mtime", path)) s->st_ctim = s->st_mtim;
    if (lies("ctime-now", path)) clock_gettime(CLOCK_REALTIME, &s->st_ctim);
    if (lies("mtime-now", path) && S_ISREG(s->st_mode)) clock_gettime(CLOCK_REALTIME, &s->st_mtim);
    if (lies("mode-755", path) && !S_ISLNK(s->st_mode)) s->st_mode = (s->st_mode & S_IFMT) | (S_ISDIR(s->st_mode) ? 0755 : 0644);
}

static int do_getattr(const char *path, struct stat *s, struct fuse_file_info *file) {
    if (lies("not-found", path) || (!file && is_late(path))) return -ENOENT;
    REFUSED("stat", path);
    BELOW(real, path);
    if (file ? fstat(file->fh, s) : lstat(real, s)) return -errno;
    distort(path, s);
    return 0;
}

static int do_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *file, enum fuse_readdir_flags flags) {
    REFUSED("readdir", path);
    BELOW(real, path);
    DIR *dir = opendir(real);
    if (!dir) return -errno;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char child[PATH];
        snprintf(child, sizeof child, "%s/%s", strcmp(path, "/") ? path : "", entry->d_name);
        if (is_late(child)) continue;
        fill(buffer, entry->d_name, NULL, 0, 0);
        if (entry->d_name[0] != '.' && lies("twice", child)) fill(buffer, entry->d_name, NULL, 0, 0);
    }
    closedir(dir);
    return 0;
}

static int do_open(const char *path, struct fuse_file_info *file) {
    REFUSED("open", path);
    BELOW(real, path);
    int fd = open(real, file->flags & ~(O_NOFOLLOW | O_APPEND));
    if (fd < 0) return -errno;
    file->fh = fd;
    file->direct_io = lies("direct", path);
    return 0;
}

static int do_create(const char *path, mode_t mode, struct fuse_file_info *file) {
    REFUSED("create", path);
    BELOW(real, path);
    int fd = open(real, (file->flags | O_CREAT) & ~O_APPEND, mode);
    if (fd < 0) return -errno;
    owned(real);
    note(path);
    file->fh = fd;
    file->direct_io = lies("direct", path);
    return 0;
}

static int do_read(const char *path, char *buffer, size_t size, off_t offset, struct fuse_file_info *file) {
    REFUSED("read", path);
    ssize_t got = pread(file->fh, buffer, size, offset);
    return got < 0 ? -errno : (int)got;
}

static int do_write(const char *path, const char *buffer, size_t size, off_t offset, struct fuse_file_info *file) {
    REFUSED("write", path);
    ssize_t put = pwrite(file->fh, buffer, size, offset);
    return put < 0 ? -errno : (int)put;
}

static off_t do_lseek(const char *path, off_t offset, int whence, struct fuse_file_info *file) {
    REFUSED("lseek", path);
    if (lies("holes", path) && whence == SEEK_DATA) return -ENXIO;
    off_t at = lseek(file->fh, offset, whence);
    return at < 0 ? -errno : at;
}

static ssize_t do_copy(const char *from, struct fuse_file_info *in, off_t at, const char *to, struct fuse_file_info *out, off_t put, size_t size, int flags) {
    REFUSED("copy_file_range", from);
    if (lies("copies-nothing", from)) {
        struct stat s;
        if (fstat(in->fh, &s)) return -errno;
        if (at >= s.st_size) return 0;
        size_t count = s.st_size - at < (off_t)size ? (size_t)(s.st_size - at) : size;
        return ftruncate(out->fh, put + count) ? -errno : (ssize_t)count;
    }
    ssize_t count = copy_file_range(in->fh, &at, out->fh, &put, size, flags);
    return count < 0 ? -errno : count;
}

static int do_flush(const char *path, struct fuse_file_info *file) {
    if ((file->flags & O_ACCMODE) != O_RDONLY) REFUSED("close", path);
    return 0;
}

static int do_release(const char *path, struct fuse_file_info *file) {
    close(file->fh);
    return 0;
}

static int do_fsync(const char *path, int data, struct fuse_file_info *file) {
    REFUSED("fsync", path);
    ANSWER(fsync(file->fh));
}

static int do_fsyncdir(const char *path, int data, struct fuse_file_info *file) {
    REFUSED("fsyncdir", path);
    return 0;
}

static int do_mkdir(const char *path, mode_t mode) {
    REFUSED("mkdir", path);
    BELOW(real, path);
    if (mkdir(real, mode)) return -errno;
    owned(real);
    note(path);
    return 0;
}

static int do_mknod(const char *path, mode_t mode, dev_t device) {
    REFUSED("mknod", path);
    BELOW(real, path);
    ANSWER(mknod(real, mode, device));
}

static int do_unlink(const char *path) {
    REFUSED("unlink", path);
    BELOW(real, path);
    ANSWER(unlink(real));
}

static int do_rmdir(const char *path) {
    REFUSED("rmdir", path);
    BELOW(real, path);
    ANSWER(rmdir(real));
}

static int do_rename(const char *from, const char *to, unsigned flags) {
    REFUSED("rename", from);
    if (flags) REFUSED("renameat2", from);
    BELOW(real, from);
    BELOW(target, to);
    if (renameat2(AT_FDCWD, real, AT_FDCWD, target, flags)) return -errno;
    note(to);
    return 0;
}

static int do_link(const char *from, const char *to) {
    REFUSED("link", from);
    BELOW(real, from);
    BELOW(target, to);
    ANSWER(link(real, target));
}

static int do_symlink(const char *text, const char *path) {
    REFUSED("symlink", path);
    BELOW(real, path);
    ANSWER(symlink(text, real));
}

static int do_readlink(const char *path, char *buffer, size_t size) {
    REFUSED("readlink", path);
    BELOW(real, path);
    ssize_t length = readlink(real, buffer, size - 1);
    if (length < 0) return -errno;
    buffer[length] = 0;
    return 0;
}

static int do_truncate(const char *path, off_t size, struct fuse_file_info *file) {
    REFUSED("truncate", path);
    BELOW(real, path);
    ANSWER(file ? ftruncate(file->fh, size) : truncate(real, size));
}

static int do_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *file) {
    REFUSED("utimens", path);
    if (lies("forgets-times", path)) return 0;
    struct timespec set[2] = {times[0], times[1]};
    // As a server whose protocol has 32 bits for a time.
    for (int at = 0; at < 2 && lies("clamps-times", path); at++)
        if (set[at].tv_nsec < 1000000000 && set[at].tv_sec < 0) set[at] = (struct timespec){0, 0};
    BELOW(real, path);
    ANSWER(utimensat(AT_FDCWD, real, set, AT_SYMLINK_NOFOLLOW));
}

static int do_chmod(const char *path, mode_t mode, struct fuse_file_info *file) {
    REFUSED("chmod", path);
    if (lies("forgets-modes", path) || lies("mode-755", path)) return 0;
    BELOW(real, path);
    ANSWER(chmod(real, mode));
}

static int do_chown(const char *path, uid_t user, gid_t group, struct fuse_file_info *file) {
    REFUSED("chown", path);
    BELOW(real, path);
    ANSWER(lchown(real, user, group));
}

static int do_getxattr(const char *path, const char *name, char *value, size_t size) {
    REFUSED("getxattr", path);
    BELOW(real, path);
    ssize_t length = lgetxattr(real, name, value, size);
    return length < 0 ? -errno : (int)length;
}

static int do_listxattr(const char *path, char *names, size_t size) {
    REFUSED("listxattr", path);
    BELOW(real, path);
    ssize_t length = llistxattr(real, names, size);
    return length < 0 ? -errno : (int)length;
}

static int do_setxattr(const char *path, const char *name, const char *value, size_t size, int flags) {
    REFUSED("setxattr", path);
    if (lies("forgets-attributes", path)) return 0;
    BELOW(real, path);
    ANSWER(lsetxattr(real, name, value, size, flags));
}

static int do_removexattr(const char *path, const char *name) {
    REFUSED("removexattr", path);
    BELOW(real, path);
    ANSWER(lremovexattr(real, name));
}

static int do_statfs(const char *path, struct statvfs *s) {
    REFUSED("statfs", path);
    BELOW(real, path);
    ANSWER(statvfs(real, s));
}

static int do_flock(const char *path, struct fuse_file_info *file, int operation) {
    REFUSED("flock", path);
    if (lies("locks-for-all", path)) return 0;
    ANSWER(flock(file->fh, operation));
}

static int do_lock(const char *path, struct fuse_file_info *file, int command, struct flock *lock) {
    REFUSED("lock", path);
    if (lies("locks-for-all", path)) {
        if (command == F_GETLK) lock->l_type = F_UNLCK;
        return 0;
    }
    lock->l_pid = 0;
    ANSWER(fcntl(file->fh, command == F_GETLK ? F_OFD_GETLK : command == F_SETLK ? F_OFD_SETLK : F_OFD_SETLKW, lock));
}

static void *do_init(struct fuse_conn_info *connection, struct fuse_config *config) {
    config->use_ino = 1;
    config->hard_remove = 1;
    // What the kernel remembers would hide a lie.
    config->attr_timeout = config->entry_timeout = config->negative_timeout = 0;
    return NULL;
}

static struct fuse_operations operations = {
    .init = do_init, .getattr = do_getattr, .readdir = do_readdir, .open = do_open, .create = do_create,
    .read = do_read, .write = do_write, .lseek = do_lseek, .copy_file_range = do_copy, .flush = do_flush,
    .release = do_release, .fsync = do_fsync, .fsyncdir = do_fsyncdir, .mkdir = do_mkdir, .mknod = do_mknod,
    .unlink = do_unlink, .rmdir = do_rmdir, .rename = do_rename, .link = do_link, .symlink = do_symlink,
    .readlink = do_readlink, .truncate = do_truncate, .utimens = do_utimens, .chmod = do_chmod,
    .chown = do_chown, .getxattr = do_getxattr, .listxattr = do_listxattr, .setxattr = do_setxattr,
    .removexattr = do_removexattr, .statfs = do_statfs,
};

int main(int count, char **words) {
    if (count < 4) return 2;
    umask(0);
    modes = words[1];
    root = words[2];
    // Without these two the kernel keeps the locks, and they are right.
    if (lies("locks-for-all", NULL) || refusal("flock", NULL)) operations.flock = do_flock;
    if (lies("locks-for-all", NULL) || refusal("lock", NULL)) operations.lock = do_lock;
    words[2] = words[0];
    return fuse_main(count - 2, words + 2, &operations, NULL);
}

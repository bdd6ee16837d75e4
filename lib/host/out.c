/* Files that are written whole or not at all. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/host.h"
#include "host/words.h"

enum { TRIES = 100, SUFFIX = 48 };

static sae_status refuse_present(const char *path, sae_error *err)
{
    return saei_fail(err, SAE_E_IO, "%s is there already: choose another name, or allow overwriting", path);
}

/* May `path` be written? */
static sae_status check_target(const char *path, bool overwrite, sae_error *err)
{
    struct stat st;
    if (lstat(path, &st))
        return errno == ENOENT ? SAE_OK : saei_io_error(err, "write", path, errno);
    if (S_ISDIR(st.st_mode))
        return saei_fail(err, SAE_E_IO, "%s is a folder, a file is to be written there", path);
    return overwrite ? SAE_OK : refuse_present(path, err);
}

/* The first free name of a hundred: the process id keeps two programs apart, the number two threads and what a crash left behind. */
static int open_temp(char *name, size_t bytes, const char *path)
{
    int fd = -1;
    errno = EEXIST;
    for (int i = 0; i < TRIES && fd < 0 && (errno == EEXIST || errno == EINTR); i++) {
        (void)snprintf(name, bytes, "%s.%ld-%d.part", path, (long)getpid(), i);
        fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    return fd;
}

sae_status saei_out_open(saei_out *out, const saei_host *host, const char *path, bool overwrite, sae_error *err)
{
    *out = (saei_out){0};
    const sae_status status = check_target(path, overwrite, err);
    if (status)
        return status;
    const size_t bytes = strlen(path) + SUFFIX;
    char *temp = saei_alloc(host, bytes);
    if (!temp)
        return saei_fail(err, SAE_E_NOMEM, "no memory for the name of a file beside %s", path);
    const int fd = open_temp(temp, bytes, path);
    if (fd < 0) {
        const int error = errno;
        saei_dealloc(host, temp, bytes);
        return saei_io_error(err, "write", path, error);
    }
    *out = (saei_out){temp, bytes, path, fd, overwrite};
    return SAE_OK;
}

sae_status saei_out_write(const saei_out *out, const void *data, size_t offset, size_t bytes, sae_error *err)
{
    const unsigned char *p = data;
    while (bytes) {
        const ssize_t n = pwrite(out->fd, p, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return saei_io_error(err, "write", out->path, n ? errno : ENOSPC);
        p += n;
        offset += (size_t)n;
        bytes -= (size_t)n;
    }
    return SAE_OK;
}

/* Some file systems say only now that the disk is full. */
sae_status saei_out_sync(saei_out *out, sae_error *err)
{
    int error = fsync(out->fd) ? errno : 0;
    if (close(out->fd) && !error && errno != EINTR)
        error = errno;
    out->fd = -1;
    return error ? saei_io_error(err, "write", out->path, error) : SAE_OK;
}

/* A new name in a folder lasts once the folder is on the disk; not every file system can say so. */
static void sync_folder(const char *path, char *scratch)
{
    const char *slash = strrchr(path, '/');
    const size_t n = slash ? (size_t)(slash - path) + 1 : 1; /* scratch is as long as path, and more */
    memcpy(scratch, slash ? path : ".", n);
    scratch[n] = '\0';
    const int fd = open(scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)fsync(fd);
    (void)close(fd);
}

/* Without overwriting, a hard link is the one step that fails where something is; where the file system has none, look and rename. */
static int give_name(const saei_out *out)
{
    if (out->overwrite)
        return rename(out->temp, out->path) ? errno : 0;
    if (!link(out->temp, out->path)) {
        (void)unlink(out->temp);
        return 0;
    }
    if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS && errno != EMLINK)
        return errno;
    struct stat st;
    if (!lstat(out->path, &st))
        return EEXIST;
    return rename(out->temp, out->path) ? errno : 0;
}

sae_status saei_out_commit(saei_out *out, const saei_host *host, sae_error *err)
{
    const int error = give_name(out);
    if (error)
        return error == EEXIST ? refuse_present(out->path, err) : saei_io_error(err, "write", out->path, error);
    sync_folder(out->path, out->temp);
    saei_dealloc(host, out->temp, out->temp_bytes);
    *out = (saei_out){.fd = -1};
    return SAE_OK;
}

void saei_out_drop(saei_out *out, const saei_host *host)
{
    if (!out->temp)
        return;
    if (out->fd >= 0)
        (void)close(out->fd);
    (void)unlink(out->temp);
    saei_dealloc(host, out->temp, out->temp_bytes);
    *out = (saei_out){.fd = -1};
}

sae_status saei_folder_make(bool *made, const char *path, sae_error *err)
{
    *made = !mkdir(path, 0777);
    if (*made || (errno == EEXIST && saei_path_kind(path) == 1))
        return SAE_OK;
    if (errno == EEXIST)
        return saei_fail(err, SAE_E_IO, "%s is a file, a folder is to be written there", path);
    return saei_io_error(err, "make the folder", path, errno);
}

void saei_folder_remove(const char *path)
{
    (void)rmdir(path);
}

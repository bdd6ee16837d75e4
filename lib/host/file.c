#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/host.h"
#include "host/words.h"

/* The POSIX strerror_r, whatever the feature macros make of the name. */
static const char *system_words(int error, char *buffer, size_t bytes)
{
#if defined(__GLIBC__) && defined(_GNU_SOURCE)
    return strerror_r(error, buffer, bytes);
#else
    return strerror_r(error, buffer, bytes) ? "unknown error" : buffer;
#endif
}

sae_status saei_io_error(sae_error *err, const char *what, const char *path, int error)
{
    char words[128];
    return saei_fail(err, SAE_E_IO, "cannot %s %s: %s", what, path, system_words(error, words, sizeof words));
}

int saei_path_kind(const char *path)
{
    struct stat st;
    return stat(path, &st) ? -1 : S_ISDIR(st.st_mode) ? 1 : 0;
}

static sae_status read_names(DIR *dir, const char ***names, uint32_t *n, saei_arena *arena, const saei_host *host, const char *path,
                             uint32_t most, sae_error *err)
{
    uint32_t room = 0;
    for (const struct dirent *entry; errno = 0, (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (*n == most)
            return saei_fail(err, SAE_E_UNSUPPORTED,
                             "the folder %s holds more than %u files: name the file or folder of the checkpoint in it", path,
                             (unsigned)most);
        const char **list = saei_arena_grow(arena, host, *names, &room, *n, sizeof *list);
        char *name = list ? saei_arena_text(arena, host, entry->d_name, strlen(entry->d_name)) : NULL;
        if (!name)
            return saei_fail(err, SAE_E_NOMEM, "no memory for the names in %s", path);
        *names = list;
        list[(*n)++] = name;
    }
    return errno ? saei_io_error(err, "list", path, errno) : SAE_OK;
}

sae_status saei_dir_names(const char ***names, uint32_t *n, saei_arena *arena, const saei_host *host, const char *path, uint32_t most,
                          sae_error *err)
{
    *names = NULL;
    *n = 0;
    DIR *dir = opendir(path);
    if (!dir)
        return saei_io_error(err, "open", path, errno);
    const sae_status status = read_names(dir, names, n, arena, host, path, most, err);
    (void)closedir(dir);
    return status;
}

static sae_status open_regular(int *fd, size_t *bytes, const char *path, sae_error *err)
{
    struct stat st;
    do
        *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold the host up */
    while (*fd < 0 && errno == EINTR);
    if (*fd < 0)
        return saei_io_error(err, "open", path, errno);
    sae_status status = SAE_OK;
    if (fstat(*fd, &st))
        status = saei_io_error(err, "look at", path, errno);
    else if (!S_ISREG(st.st_mode))
        status = saei_fail(err, SAE_E_IO, "%s is %s, not a file", path, S_ISDIR(st.st_mode) ? "a directory" : "a device, pipe or socket");
    else
        *bytes = (size_t)st.st_size;
    if (status)
        (void)close(*fd);
    return status;
}

static sae_status read_at(int fd, const char *path, void *dst, size_t offset, size_t bytes, sae_error *err)
{
    unsigned char *p = dst;
    while (bytes) {
        const ssize_t n = pread(fd, p, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return saei_io_error(err, "read", path, errno);
        if (n == 0)
            return saei_fail(err, SAE_E_IO, "%s ends at byte %zu, %zu more were expected: it was cut while in use", path, offset, bytes);
        p += n;
        offset += (size_t)n;
        bytes -= (size_t)n;
    }
    return SAE_OK;
}

static sae_status read_whole(saei_file *f, const saei_host *host, const char *path, sae_error *err)
{
    unsigned char *data = saei_alloc(host, f->bytes);
    if (!data)
        return saei_fail(err, SAE_E_NOMEM, "no memory for a copy of %s (%zu bytes)", path, f->bytes);
    const sae_status status = read_at(f->fd, path, data, 0, f->bytes, err);
    if (status) {
        saei_dealloc(host, data, f->bytes);
        return status;
    }
    (void)close(f->fd);
    f->fd = -1;
    f->data = data;
    return SAE_OK;
}

static sae_status map_whole(saei_file *f, const char *path, sae_error *err)
{
    void *data = mmap(NULL, f->bytes, PROT_READ, MAP_PRIVATE, f->fd, 0);
    if (data == MAP_FAILED)
        return saei_io_error(err, "map", path, errno);
    f->data = data;
    f->mapped = true;
    return SAE_OK;
}

sae_status saei_file_open(saei_file *out, const saei_host *host, const char *path, bool copy, sae_error *err)
{
    saei_file f = {NULL, 0, -1, false};
    *out = f;
    sae_status status = open_regular(&f.fd, &f.bytes, path, err);
    if (status)
        return status;
    if (f.bytes > 0)
        status = copy ? read_whole(&f, host, path, err) : map_whole(&f, path, err);
    if (status || !f.bytes) {
        (void)close(f.fd);
        return status;
    }
    *out = f;
    return SAE_OK;
}

sae_status saei_file_text(char **out, size_t *bytes, const saei_host *host, const char *path, size_t max_bytes, sae_error *err)
{
    int fd;
    size_t n = 0;
    *out = NULL;
    *bytes = 0;
    sae_status status = open_regular(&fd, &n, path, err);
    if (status)
        return status;
    char *text = NULL;
    if (n > max_bytes)
        status = saei_fail(err, SAE_E_FORMAT, "%s has %zu bytes, more than the %zu such a file may have", path, n, max_bytes);
    else if (!(text = saei_alloc(host, n + 1)))
        status = saei_fail(err, SAE_E_NOMEM, "no memory to read %s (%zu bytes)", path, n);
    else
        status = read_at(fd, path, text, 0, n, err);
    (void)close(fd);
    if (status) {
        saei_dealloc(host, text, n + 1);
        return status;
    }
    text[n] = '\0';
    *out = text;
    *bytes = n;
    return SAE_OK;
}

sae_status saei_file_read(const saei_file *file, void *dst, size_t offset, size_t bytes, sae_error *err)
{
    if (offset > file->bytes || bytes > file->bytes - offset)
        return saei_fail(err, SAE_E_IO, "bytes %zu .. %zu asked for, the file has %zu", offset, offset + bytes, file->bytes);
    if (file->fd >= 0)
        return read_at(file->fd, "the weights", dst, offset, bytes, err);
    if (bytes)
        memcpy(dst, file->data + offset, bytes);
    return SAE_OK;
}

void saei_file_want(const saei_file *file, size_t offset, size_t bytes)
{
    if (file->fd >= 0)
        (void)posix_fadvise(file->fd, (off_t)offset, (off_t)bytes, POSIX_FADV_WILLNEED);
}

void saei_file_close(saei_file *file, const saei_host *host)
{
    if (file->mapped)
        (void)munmap((void *)(uintptr_t)file->data, file->bytes);
    else
        saei_dealloc(host, (void *)(uintptr_t)file->data, file->bytes);
    if (file->fd >= 0)
        (void)close(file->fd);
    *file = (saei_file){NULL, 0, -1, false};
}

void saei_file_remove(const char *path)
{
    (void)unlink(path);
}

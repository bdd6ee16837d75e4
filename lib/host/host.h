/* Memory, parallel-for, locks, log, files: everything that talks to the host or the system, and nothing else does. */
#ifndef SAEI_HOST_H
#define SAEI_HOST_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/base.h"
#include "sae/host.h"

/* The host's hooks, copied into the env. */
typedef struct saei_host {
    sae_alloc_fn alloc;
    sae_free_fn dealloc;
    void *alloc_user;
    sae_run_fn run;
    void *run_user;
    uint32_t max_workers; /* >= 1 */
    int32_t log_level;
    sae_log_fn log;
    void *log_user;
} saei_host;

/* Replaces absent hooks by the C library's. */
void saei_host_defaults(saei_host *host);

/* 64-byte aligned memory; NULL for bytes == 0, SIZE_MAX (an overflow caught by saei_reserve) or when there is none. */
void *saei_alloc(const saei_host *host, size_t bytes);
void *saei_zalloc(const saei_host *host, size_t bytes);
void saei_dealloc(const saei_host *host, void *p, size_t bytes);

/* A copy of a string. */
char *saei_strdup(const saei_host *host, const char *s);
void saei_strfree(const saei_host *host, char *s);

/* Memory that is given back all at once. Zero is an empty arena. */
typedef struct saei_arena_block saei_arena_block;

typedef struct saei_arena {
    saei_arena_block *blocks;
    size_t bytes; /* asked for in all */
} saei_arena;

/* 64-byte aligned; NULL without memory. */
void *saei_arena_alloc(saei_arena *arena, const saei_host *host, size_t bytes);

/* A copy of text[0 .. n), NUL-terminated; NULL without memory. */
char *saei_arena_text(saei_arena *arena, const saei_host *host, const char *text, size_t n);

/* Where `n` items may be followed by one more: `items` itself while n < *room, else a larger copy. NULL without memory. */
void *saei_arena_grow(saei_arena *arena, const saei_host *host, const void *items, uint32_t *room, uint32_t n, size_t each);

/* What `from` holds becomes `to`'s; `from` is empty then. */
void saei_arena_move(saei_arena *to, saei_arena *from);

void saei_arena_free(saei_arena *arena, const saei_host *host);

/* task(job, i, worker) for i < n by the host's runner, or in order on this thread. SAE_E_HOST when the runner failed. */
sae_status saei_run(const saei_host *host, void *job, sae_task task, uint32_t n);

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
void saei_log(const saei_host *host, int32_t level, const char *fmt, ...);

/* A mutex for the create-time paths (prepare), never taken by compute calls. */
typedef pthread_mutex_t saei_lock;
bool saei_lock_init(saei_lock *lock);
void saei_lock_take(saei_lock *lock);
void saei_lock_give(saei_lock *lock);
void saei_lock_end(saei_lock *lock);

/* References: children hold their parents. saei_unref gives true when the last one went. */
typedef struct saei_ref {
    atomic_int count;
} saei_ref;

void saei_ref_init(saei_ref *ref);
void saei_ref_take(saei_ref *ref);
bool saei_ref_drop(saei_ref *ref);

/* A floating-point environment for the canonical bits: round to nearest, denormals kept (no FTZ, no DAZ). Every public entry that
 * computes and every task opens one and gives the host its mode back. */
typedef struct saei_fpmode {
    uint64_t saved;
} saei_fpmode;

saei_fpmode saei_fp_enter(void);
void saei_fp_leave(saei_fpmode mode);

/* A file: mapped, or read into memory. */
typedef struct saei_file {
    const unsigned char *data; /* NULL for an empty file */
    size_t bytes;
    int fd; /* open while mapped, for saei_file_read; -1 otherwise */
    bool mapped;
} saei_file;

/* Opens a regular file and maps it, or reads it when `copy`. SAE_E_IO with the system's words and the path. */
sae_status saei_file_open(saei_file *out, const saei_host *host, const char *path, bool copy, sae_error *err);

/* Reads a small text file whole, NUL-terminated (bytes does not count the NUL); refuses one above max_bytes with SAE_E_FORMAT.
 * Free it with saei_dealloc(host, text, bytes + 1). */
sae_status saei_file_text(char **out, size_t *bytes, const saei_host *host, const char *path, size_t max_bytes, sae_error *err);

/* Copies bytes at `offset` by pread (mapped) or memcpy (copied). Short reads and errors are SAE_E_IO. */
sae_status saei_file_read(const saei_file *file, void *dst, size_t offset, size_t bytes, sae_error *err);

/* Says that these bytes will be read soon, so that many scattered reads wait for the disk together, not one after the other. Only a hint. */
void saei_file_want(const saei_file *file, size_t offset, size_t bytes);

void saei_file_close(saei_file *file, const saei_host *host);

/* Takes away a file that we made and could not finish. */
void saei_file_remove(const char *path);

/* A file being written: under a name of its own beside `path`, so that nobody sees half of it. Zero is none. */
typedef struct saei_out {
    char *temp;
    size_t temp_bytes; /* of that name */
    const char *path;  /* the caller's */
    int fd;
    bool overwrite;
} saei_out;

/* A new, empty file beside `path`. A file or folder that is there already is SAE_E_IO unless `overwrite`, and then only a file gives way. */
sae_status saei_out_open(saei_out *out, const saei_host *host, const char *path, bool overwrite, sae_error *err);

/* Bytes may be written in any order; what lies between is zero. */
sae_status saei_out_write(const saei_out *out, const void *data, size_t offset, size_t bytes, sae_error *err);

/* Puts the bytes on the disk and closes: what is left is to give the file its name, which takes no space. */
sae_status saei_out_sync(saei_out *out, sae_error *err);

/* After saei_out_sync: gives the file its name. A file that has appeared there meanwhile is refused like one that was there. */
sae_status saei_out_commit(saei_out *out, const saei_host *host, sae_error *err);

/* Closes and removes what was not committed; nothing to do for a zero or committed one. */
void saei_out_drop(saei_out *out, const saei_host *host);

/* Makes a folder; *made says whether it was not there before. */
sae_status saei_folder_make(bool *made, const char *path, sae_error *err);

/* Takes away an empty folder that we made. */
void saei_folder_remove(const char *path);

/* The names in a directory but . and .., in no order, in memory of the arena; at most `most` of them: more are SAE_E_UNSUPPORTED. */
sae_status saei_dir_names(const char ***names, uint32_t *n, saei_arena *arena, const saei_host *host, const char *path, uint32_t most,
                          sae_error *err);

/* 1 directory, 0 other file, -1 nothing there. */
int saei_path_kind(const char *path);

#endif

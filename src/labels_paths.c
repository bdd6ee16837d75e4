/* The files of labels in folders. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "labels.h"

enum { MOST_DEPTH = 8 };

static void append(paths *p, char *path, bool in_folder)
{
    if (p->n == p->room) {
        p->room = 2 * p->room + 16;
        p->all = retake(p->all, (size_t)p->room, sizeof *p->all);
    }
    p->all[p->n++] = (label_path){path, in_folder};
}

static bool is_folder(const char *path)
{
    struct stat about;
    return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n > k && strcmp(name + n - k, end) == 0;
}

/* Other files of such folders are weights, caches and pictures; texts of Delphi have the number of a feature before the dot. */
static bool may_be_labels(const char *name)
{
    size_t n = strlen(name);
    return ends_with(name, ".jsonl") || ends_with(name, ".jsonl.gz") || ends_with(name, ".json") || ends_with(name, ".json.gz") ||
           (ends_with(name, ".txt") && n > 4 && name[n - 5] >= '0' && name[n - 5] <= '9');
}

static char *join(const char *folder, const char *name)
{
    size_t n = strlen(folder) + strlen(name) + 2;
    char *path = take(n, 1);
    snprintf(path, n, "%s/%s", folder, name);
    return path;
}

/* Numbers in names count: batch-9 comes before batch-10. */
static int by_name(const void *a, const void *b)
{
    return strverscmp(((const label_path *)a)->path, ((const label_path *)b)->path);
}

/* Puts the files of a folder behind `files` and its folders behind `folders`. */
static void list(paths *files, paths *folders, const char *folder)
{
    DIR *d = opendir(folder);
    if (d == NULL) {
        die("%s: cannot open: %s", folder, strerror(errno));
    }
    for (const struct dirent *e; (e = readdir(d)) != NULL;) {
        char *path = e->d_name[0] != '.' ? join(folder, e->d_name) : NULL;
        if (path != NULL && is_folder(path)) {
            append(folders, path, true);
        } else if (path != NULL && may_be_labels(e->d_name)) {
            append(files, path, true);
        } else {
            free(path);
        }
    }
    closedir(d);
}

void paths_add(paths *p, const char *path)
{
    if (strcmp(path, "-") != 0 && access(path, R_OK) != 0) {
        die("%s: cannot open: %s", path, strerror(errno));
    }
    if (strcmp(path, "-") == 0 || !is_folder(path)) {
        append(p, take_text(path), false);
        return;
    }
    int64_t first = p->n;
    paths folders = {0};
    append(&folders, take_text(path), true);
    for (int64_t at = 0, depth = 0, end = 1; at < folders.n && depth < MOST_DEPTH; at++) {
        list(p, &folders, folders.all[at].path);
        if (at + 1 == end) { /* all of this depth are done */
            end = folders.n;
            depth++;
        }
    }
    paths_free(&folders);
    if (p->n == first) {
        die("%s: the folder holds no .jsonl, .json and _latentN.txt", path);
    }
    qsort(p->all + first, (size_t)(p->n - first), sizeof *p->all, by_name);
}

void paths_free(paths *p)
{
    for (int64_t i = 0; i < p->n; i++) {
        free(p->all[i].path);
    }
    free(p->all);
}

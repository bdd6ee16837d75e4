/* What every part of the tool says and how it ends: one sentence on standard error, then exit. Temporary files that were not yet
 * renamed to their real name are removed on every way out, signals included. */
#ifndef TOOL_SAY_H
#define TOOL_SAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { STATUS_OK = 0, STATUS_FAILED = 1, STATUS_USAGE = 2 };

/* Sentences begin with "sae: ", or "sae COMMAND: " once the command is known. Also catches the signals that end a process. */
void say_start(void);
void say_command(const char *command);

/* Something went wrong while doing what was asked: exit status 1. */
__attribute__((format(printf, 1, 2))) _Noreturn void die(const char *fmt, ...);

/* The command line is wrong: exit status 2, with the way to the help. */
__attribute__((format(printf, 1, 2))) _Noreturn void die_usage(const char *fmt, ...);

/* Legal, but worth knowing. */
__attribute__((format(printf, 1, 2))) void warn(const char *fmt, ...);

/* Flushes standard output; a full disk or a closed pipe is an error. */
void finish_stdout(void);

/* n * each bytes, or a sentence. Never NULL, also for 0. */
void *take(size_t n, size_t each);
void *take_zeros(size_t n, size_t each);
void *retake(void *p, size_t n, size_t each);
char *take_text(const char *s);

/* A new, empty file beside `path` (NULL: in the folder for temporary files), registered for removal. */
typedef struct temp {
    char *path;
    int fd;
} temp;

temp temp_open(const char *beside);
void temp_rename(temp *t, const char *path);
void temp_remove(temp *t);

/* An anonymous file to write to and then read back. */
FILE *scratch_file(void);

/* "encoding 1024 of 4096 rows" on a terminal, after the first half second; nothing elsewhere. */
typedef struct progress {
    const char *verb;
    const char *noun;
    int64_t total;
    double next;
    bool shown;
} progress;

/* "checking every weight ..." on a terminal, for work that cannot say how far it is. */
progress progress_note(const char *what);
progress progress_start(const char *verb, const char *noun, int64_t total);
void progress_at(progress *p, int64_t done);
void progress_end(progress *p);

/* Seconds of a clock that never goes back. */
double now(void);

#endif

/* What the bench's C workers share: the line protocol, the clock, the files of a test SAE.
 *
 * A worker reads requests from stdin, one a line, and answers each with one line, "ok ..." or "no <reason>":
 *     hello               names and versions, as key=value
 *     threads N           how many threads the next cases use
 *     open FOLDER         the test SAE (see planted.py for what is in the folder)
 *     case S NAME k=v ... sets a case up as number S and runs it once; answers count=N (codes, bytes or operations of one run)
 *                         and bits=H (a hash of the codes, 0 where there is none)
 *     turn S MS           runs case S for at least MS milliseconds and at least once; answers the milliseconds of each run:
 *                         of processor time while one thread is used, which leaves out what other programs take, else by the clock
 *     counts              of the case set up last: how its rows came to their codes, as key=value, and the bits of its codes once more
 *     rss                 the resident set of the process in KiB
 * The end of stdin ends it. peer_worker.py speaks the same. */
#ifndef BENCH_WORKER_H
#define BENCH_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct bench_case {
    char name[32];
    char prepared[32]; /* "none", "panels", "screen" (both forms, used where it pays) or "always" (the screen for every row) */
    char layout[32];   /* of a raw product's weights: "file" = [d_in][d_sae], "rows" = [d_sae][d_in] */
    int batch;
    int features; /* named, active or found: what the case means by it */
    int mib;      /* to read */
    int rows;     /* 0: every run takes the first `batch` rows; else runs go through so many rows, block by block, again and again */
} bench_case;

/* The worker's side. Functions that return false have said why with bench_no. */
typedef struct bench_ops {
    void (*hello)(void); /* prints key=value pairs, each after a space */
    bool (*threads)(int n);
    bool (*open)(const char *folder);
    bool (*setup)(const bench_case *c);
    void (*before)(void); /* NULL, or what is done, untimed, before each run */
    void (*run)(const bench_case *c);
    void (*after)(void);  /* NULL, or what is done, untimed, after each run */
    void (*counts)(void); /* NULL, or prints key=value pairs, each after a space */
} bench_ops;

/* What the last setup found. */
extern double bench_count;
extern uint64_t bench_bits;

/* Keeps the sentence for the answer; returns false. */
bool bench_no(const char *format, ...) __attribute__((format(printf, 1, 2)));

int bench_serve(const bench_ops *ops);

/* For a worker that cannot start: answers "no" and the kept sentence; returns 1 for main. */
int bench_refuse(void);

/* FNV-1a over memory, to compare codes between workers. */
uint64_t bench_hash(uint64_t hash, const void *data, size_t bytes);

/* A number of /proc/self/status in KiB, "VmRSS" or "VmHWM"; 0 where there is none. */
long bench_status_kib(const char *key);

/* Sizes and places in a test SAE's folder. */
typedef struct bench_sae {
    int d_in;
    int d_sae;
    long long w_enc; /* byte offset in sae_weights.safetensors */
} bench_sae;

bool bench_read_layout(bench_sae *out, const char *folder);

/* The first `bytes` of a file of the folder from `offset` on, in memory of malloc; NULL after bench_no. */
void *bench_read(const char *folder, const char *file, long long offset, size_t bytes);

#endif

/* Labels, statistics and examples as other projects publish them, on their way into a catalog. A file is a row of JSON values, most often
 * one a line; the format is told by the first, and then takes each. */
#ifndef TOOL_LABELS_H
#define TOOL_LABELS_H

#include "jsonl.h"
#include "session.h"

struct labels;

typedef struct label_format {
    const char *name;
    const char *what; /* how its files are known, for the sentence that refuses others */
    bool (*fits)(const struct labels *l, const json_t *value);
    void (*take)(struct labels *l, json_t *value);
} label_format;

/* Those there are; ends with NULL. */
extern const label_format *const label_formats[];
extern const label_format labels_neuronpedia, labels_circuits, labels_dashboard, labels_delphi;

/* Why something that was read is not imported. */
typedef enum label_skip { SKIP_SOURCE, SKIP_EXPLAINER, SKIP_LABEL, SKIP_FEATURE, SKIP_INACTIVE, N_SKIPS } label_skip;

/* Texts of token ids. */
typedef struct vocabulary {
    json_t *root; /* the texts lie in it */
    const char **texts;
    int32_t n;
} vocabulary;

/* An import. */
typedef struct labels {
    const label_format *format; /* asked for; NULL = told by what a file holds */
    const char *source;         /* asked for; NULL = all must be of one */
    const char *explainer;      /* asked for; NULL = any */
    int32_t examples;           /* of a feature, at most */
    vocabulary words;
    sae_catalog *catalog;
    const char *path;
    bool made; /* the catalog is new: it goes when the import fails */
    int32_t d_sae;
    const char *file;            /* being read */
    int64_t line, values, entry; /* line; how many values of the file; place in a list of rows, -1 = in none */
    bool wordless;               /* token ids without texts were met */
    feature_line joined;         /* of rows that are examples: those of one feature, and the rows, where their texts lie */
    json_t *rows;
    char *first_source;   /* the first that was met */
    json_t *explainers;   /* how many labels are whose */
    unsigned char *taken; /* a bit for each feature: it has been written */
    progress *progress;
    int64_t files, files_skipped, read, imported, features, skipped[N_SKIPS];
    const label_format *used; /* of the last file */
} labels;

/* Makes room for what is counted; l->catalog and what is asked for are there. */
void labels_start(labels *l, int32_t d_sae);
void labels_end(labels *l);

/* Says which file and line, takes the transaction back, removes a new catalog, and ends. */
__attribute__((format(printf, 2, 3))) _Noreturn void labels_fail(const labels *l, const char *fmt, ...);

/* Reads a file, or with "-" standard input; either may be compressed. One that was `found` in a folder may be of no format. */
void labels_read(labels *l, const char *path, bool found);

typedef struct label_path {
    char *path;
    bool in_folder;
} label_path;

/* Files of labels in a folder and the folders in it, by name; a path that is no folder stands for itself. */
typedef struct paths {
    label_path *all;
    int64_t n, room;
} paths;

void paths_add(paths *p, const char *path);
void paths_free(paths *p);

/* ---- for the formats ---- */

/* Counts something that was read. False when it is not wanted, because of its source (NULL = it does not say). */
bool labels_wanted(labels *l, const char *source);
void labels_skip(labels *l, label_skip why);

/* Writes what a line says over what the catalog has, and counts the feature; frees the line. */
void labels_put(labels *l, feature_line *line);

/* The same for a label alone, whose text lies in `root`. */
void labels_put_label(labels *l, json_t *root, int32_t id, const char *label);

/* Adds an example, whose tokens are new memory, to those of a line; false when the feature is not active in it. Only the strongest of them
 * and of those that the catalog has are kept. */
bool labels_add(const labels *l, feature_line *line, const sae_example *e);

/* Puts such an example, which is a row of its own, beside the others of its feature; labels_flush writes what is together. */
void labels_join(labels *l, json_t *root, int32_t id, const sae_example *e);
void labels_flush(labels *l);

/* Reads the texts of the tokens: a list, an object of ids, or a tokenizer.json. */
vocabulary vocabulary_read(const char *path);
void vocabulary_free(vocabulary *v);

#endif

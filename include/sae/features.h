/* A catalog of features: labels, statistics, tokens and examples of one SAE's features in one file, with search.
 *
 * The file is an SQLite database that belongs to one SAE, told by its fingerprint (sae_model_fingerprint). It is a single file whenever no
 * transaction is open. A process that dies in one may leave FILE-journal beside it: keep the two together, the next program that opens
 * the catalog undoes what was not committed, and the next that writes takes the journal away. What has been committed stays, also when
 * power fails.
 *
 * Threads: calls on one catalog are served one after the other, whatever thread they come from; a transaction belongs to the catalog, not
 * to a thread. Several catalogs, also of other processes, may read one file at once; one of them writes at a time.
 * Memory: lists and the catalog itself come from the env's allocator. SQLite's own memory does not: its allocator is process-wide, and a
 * library does not change that. A catalog file may come from a stranger: what it claims is checked, and nothing in it is executed.
 * A libsae built with SQLITE=0 refuses sae_catalog_create and sae_catalog_open with SAE_E_UNSUPPORTED. */
#ifndef SAE_FEATURES_H
#define SAE_FEATURES_H

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sae_catalog sae_catalog;

/* Features that a catalog gave: independent of it, immutable. */
typedef struct sae_features sae_features;

/* A token and a number: what a feature adds to its logit, or the feature's activation at it. This struct never changes. */
typedef struct sae_token {
    const char *text;  /* UTF-8 */
    float value;       /* finite */
    uint32_t reserved; /* 0 */
} sae_token;

/* A place where a feature is active, with the tokens around it. This struct never changes. */
typedef struct sae_example {
    const sae_token *tokens; /* [n_tokens], with the activation at each */
    int32_t n_tokens;        /* at most SAE_MOST_TOKENS */
    int32_t peak;            /* index in tokens of the one that this is about; -1 = not said */
    int32_t document;        /* number of the text; -1 = not said, as the next */
    int32_t position;        /* of the peak in that text */
} sae_example;

/* What is known of one feature. Zero it first, then set struct_size, id and the statistics (NaN where unknown). */
typedef struct sae_feature {
    uint32_t struct_size;
    int32_t id;           /* 0 .. d_sae - 1 */
    const char *label;    /* what it stands for, UTF-8; NULL = "" */
    const char *model_id; /* Neuronpedia's modelId and layer, kept as they are; NULL = not said */
    const char *layer;
    double density;            /* fraction of tokens on which it is active; NaN = unknown, as the next two */
    double mean;               /* mean activation where it is active */
    double max;                /* largest known activation */
    double score;              /* of sae_catalog_search: how well it fits the query, higher is better. Not stored */
    const sae_token *promoted; /* [n_promoted] tokens whose logit it raises most, or that it is most active on */
    const sae_token *suppressed;
    const sae_example *examples; /* [n_examples] strongest first */
    int32_t n_promoted;          /* each of the three at most SAE_MOST_ENTRIES */
    int32_t n_suppressed;
    int32_t n_examples;
    uint32_t reserved; /* 0 */
} sae_feature;

/* Most entries of a list of a feature, tokens of an example, bytes of a text with its final NUL; a feature as a whole must stay
 * below 16 MiB. */
enum { SAE_MOST_ENTRIES = 1000, SAE_MOST_TOKENS = 4096, SAE_MOST_TEXT = 65536 };

/* What a catalog may be opened for. */
enum { SAE_CATALOG_READ = 0, SAE_CATALOG_WRITE = 1 };

typedef struct sae_catalog_options {
    uint32_t struct_size;
    int32_t access;   /* SAE_CATALOG_READ or SAE_CATALOG_WRITE */
    sae_model *model; /* the SAE that the catalog must belong to; NULL = any. Not kept */
    int32_t force;    /* SAE_YES: take it although the fingerprint is another's, if d_sae agrees */
    int32_t wait_ms;  /* how long to wait for another writer before SAE_E_BUSY; 0 = 5000, -1 = not at all */
} sae_catalog_options;

/* What a catalog says of itself. The texts are valid as long as the catalog. */
typedef struct sae_catalog_about {
    uint32_t struct_size;
    int32_t schema; /* version of the layout of the file: 1 */
    const char *model_name;
    const char *hook_name;
    int32_t d_in;
    int32_t d_sae;
    uint8_t fingerprint[16];
} sae_catalog_about;

/* Makes a new catalog for `model`, open for writing; the file must not exist. `model` is not kept.
 * Errors: SAE_E_IO (exists, no such folder, disk full), SAE_E_FORMAT (a non-finite weight), SAE_E_NOMEM, SAE_E_ARG, SAE_E_UNSUPPORTED. */
SAE_API sae_status sae_catalog_create(sae_catalog **out, sae_env *env, const char *path, sae_model *model, sae_error *err);

/* Opens a catalog. `opt` NULL = for reading, of any SAE. A file that cannot be written can be read; where a writer died, opening for
 * reading too undoes its unfinished work.
 * Errors: SAE_E_IO (missing, unreadable, not writable), SAE_E_FORMAT (no catalog, damaged), SAE_E_VERSION (of a later schema),
 * SAE_E_SHAPE (made for another SAE: both fingerprints and hook names), SAE_E_BUSY, SAE_E_NOMEM, SAE_E_ARG, SAE_E_UNSUPPORTED. */
SAE_API sae_status sae_catalog_open(sae_catalog **out, sae_env *env, const char *path, const sae_catalog_options *opt, sae_error *err);

/* Fills `out` (set out->struct_size first). Errors: SAE_E_ARG. */
SAE_API sae_status sae_catalog_info(const sae_catalog *catalog, sae_catalog_about *out);

/* Begins a transaction: what is put until sae_catalog_commit is written then, all or nothing. Only this program writes meanwhile.
 * Errors: SAE_E_BUSY (another writes, and did not end within wait_ms), SAE_E_ARG (one is open already, or the catalog is open for
 * reading), SAE_E_IO. */
SAE_API sae_status sae_catalog_begin(sae_catalog *catalog, sae_error *err);

/* Writes the transaction; when it returns SAE_OK the features are on the disk. On an error nothing of the transaction is written, and it has
 * ended. Errors: SAE_E_BUSY (readers did not end within wait_ms), SAE_E_IO (disk full), SAE_E_ARG (none is open). */
SAE_API sae_status sae_catalog_commit(sae_catalog *catalog, sae_error *err);

/* Takes the transaction back. Nothing happens when none is open; sae_catalog_free does it too. */
SAE_API void sae_catalog_rollback(sae_catalog *catalog);

/* Puts a feature in place of the one with its id, if there is one; everything is copied. Outside of a transaction it is one of its own.
 * Errors: SAE_E_ARG (id, counts or lengths out of range, a text that is not UTF-8, a number that is not finite): nothing has happened;
 * SAE_E_IO, SAE_E_BUSY, SAE_E_NOMEM, SAE_E_FORMAT (a damaged file): the transaction has ended and nothing of it is written. */
SAE_API sae_status sae_catalog_put(sae_catalog *catalog, const sae_feature *feature, sae_error *err);

/* How many features the catalog holds. Errors: SAE_E_ARG, SAE_E_IO, SAE_E_BUSY, SAE_E_FORMAT. */
SAE_API sae_status sae_catalog_count(sae_catalog *catalog, int64_t *out, sae_error *err);

/* The features with these ids [n], whole, in that order; ids that the catalog does not hold are left out.
 * Errors: SAE_E_ARG (n above 100000), SAE_E_FORMAT, SAE_E_IO, SAE_E_BUSY, SAE_E_NOMEM. */
SAE_API sae_status sae_catalog_get(sae_features **out, sae_catalog *catalog, const int32_t *ids, int64_t n, sae_error *err);

/* The features whose label or promoted tokens hold the words of `query` (UTF-8), at most `limit` (1 .. 10000), the best first: by Okapi
 * BM25 (Robertson and Zaragoza 2009, k1 = 1.2, b = 0.75), where a label counts ten times a token; then by id. A word also finds the words
 * that begin with it. Korean, Chinese, Japanese and other scripts without spaces or with attached particles are found from any syllable on.
 * When no feature holds all words, those that hold any of them are given. Of words that more than 10000 features hold, the best of the 10000
 * with the lowest ids. Lists hold labels and statistics, no tokens and examples.
 * A query with nothing to look for finds nothing. Errors: SAE_E_ARG (not UTF-8, longer than 1000 bytes, limit), and as for get. */
SAE_API sae_status sae_catalog_search(sae_features **out, sae_catalog *catalog, const char *query, int32_t limit, sae_error *err);

/* What a list is ordered by; equal ones by id in the same direction. */
enum { SAE_ORDER_ID = 0, SAE_ORDER_DENSITY = 1, SAE_ORDER_MEAN = 2, SAE_ORDER_MAX = 3 };

typedef struct sae_list_options {
    uint32_t struct_size;
    int32_t order;      /* SAE_ORDER_*: features whose statistic is unknown are not listed */
    int32_t descending; /* SAE_YES: the largest first */
    int32_t limit;      /* 1 .. 10000; 0 = 100 */
    int32_t resume;     /* SAE_YES: go on after the feature with after_id whose statistic is after_value: the last of the page before. */
    int32_t after_id;   /* Features that were put meanwhile neither repeat others nor push them out */
    double after_value; /* not looked at for SAE_ORDER_ID */
} sae_list_options;

/* A page of features in order, without tokens and examples. `opt` NULL = the first 100 by id. The last page is the one with fewer than
 * `limit` features. Errors: SAE_E_ARG, and as for get. */
SAE_API sae_status sae_catalog_list(sae_features **out, sae_catalog *catalog, const sae_list_options *opt, sae_error *err);

SAE_API void sae_catalog_free(sae_catalog *catalog);

/* Number of features of a list; 0 for NULL. */
SAE_API int64_t sae_features_count(const sae_features *features);

/* Fills `out` (set out->struct_size first) with the i-th; what it points to is valid as long as the list. Errors: SAE_E_ARG. */
SAE_API sae_status sae_features_at(const sae_features *features, int64_t i, sae_feature *out);

SAE_API void sae_features_free(sae_features *features);

#ifdef __cplusplus
}
#endif
#endif

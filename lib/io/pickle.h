/* A reader of Python pickles (protocol 2 to 5) that knows what torch's state dicts need and nothing else. No global is ever called: the few
 * that tensors need become values of their own, any other is refused by its name. No recursion; every count is bounded. */
#ifndef SAEI_PICKLE_H
#define SAEI_PICKLE_H

#include "io/tensors.h"

enum {
    SAEI_PICKLE_MOST = 1 << 20, /* values in one pickle, and places in its containers */
    SAEI_PICKLE_KEY = 64        /* bytes of a storage's key, at most */
};

/* What a global is for. */
typedef enum saei_pickle_role {
    SAEI_PICKLE_ORDERED_DICT,
    SAEI_PICKLE_REBUILD,    /* (storage, offset, size, stride) */
    SAEI_PICKLE_REBUILD_V2, /* and requires_grad, hooks[, metadata] */
    SAEI_PICKLE_REBUILD_V3, /* and requires_grad, hooks, dtype[, metadata], of a storage of bytes */
    SAEI_PICKLE_PARAMETER,  /* (tensor, ...) */
    SAEI_PICKLE_SIZE,       /* (tuple) */
    SAEI_PICKLE_DEVICE,     /* (name, ...) */
    SAEI_PICKLE_CLASS,      /* of a storage with elements of one type */
    SAEI_PICKLE_UNTYPED,    /* of a storage of bytes */
    SAEI_PICKLE_DTYPE
} saei_pickle_role;

typedef struct saei_pickle_global {
    const char *module, *name;
    const char *dtype; /* "torch.float32"; classes and dtypes only */
    saei_pickle_role role;
    saei_element element;
    uint32_t bytes; /* of an element */
} saei_pickle_global;

extern const saei_pickle_global saei_pickle_globals[];

typedef enum saei_pickle_kind {
    SAEI_PICKLE_MARK, /* never seen outside the reader */
    SAEI_PICKLE_NONE,
    SAEI_PICKLE_BOOL,
    SAEI_PICKLE_INT,
    SAEI_PICKLE_BIG, /* an integer beyond int64_t: n bytes at `at`, little-endian two's complement */
    SAEI_PICKLE_FLOAT,
    SAEI_PICKLE_STRING, /* n bytes at `at` */
    SAEI_PICKLE_TUPLE,
    SAEI_PICKLE_LIST,
    SAEI_PICKLE_DICT,    /* its items are keys and values in turn */
    SAEI_PICKLE_GLOBAL,  /* `integer` is its index in saei_pickle_globals */
    SAEI_PICKLE_STORAGE, /* its items are "storage", a class, the key, a device, the number of elements; kinds checked */
    SAEI_PICKLE_TENSOR   /* its items are the arguments, not yet checked; `last` is the GLOBAL that rebuilds it */
} saei_pickle_kind;

typedef struct saei_pickle_value {
    uint32_t kind;
    uint32_t n; /* items of a container, bytes of a string */
    union {
        int64_t integer; /* 0 or 1 for a bool */
        double number;
        size_t at;
        struct {
            uint32_t first, last; /* in `items`; 0 when there are none */
        } items;
    } as;
} saei_pickle_value;

/* A place in a container. */
typedef struct saei_pickle_item {
    uint32_t value; /* its index in `v` */
    uint32_t next;  /* 0 behind the last */
} saei_pickle_item;

typedef struct saei_pickle {
    const unsigned char *text; /* strings stay there */
    saei_pickle_value *v;
    saei_pickle_item *items; /* items[0] is none */
    uint32_t n, room, n_items, room_items;
    uint32_t root;
    size_t end; /* offset behind the pickle */
} saei_pickle;

/* Reads the pickle that begins at text[begin] and ends before text[bytes]; `name` is the file's name for sentences. A container may hold
 * itself. Errors: SAE_E_FORMAT, SAE_E_UNSUPPORTED (a foreign global or opcode), SAE_E_NOMEM. */
sae_status saei_pickle_read(saei_pickle *out, const saei_host *host, const unsigned char *text, size_t begin, size_t bytes,
                            const char *name, sae_error *err);
void saei_pickle_free(saei_pickle *pickle, const saei_host *host);

/* The value of the i-th item of a container, which has it. */
uint32_t saei_pickle_at(const saei_pickle *pickle, uint32_t container, uint32_t i);

/* Is it the string `text`? */
bool saei_pickle_is(const saei_pickle *pickle, uint32_t value, const char *text);

/* NULL unless it is a global. */
const saei_pickle_global *saei_pickle_global_of(const saei_pickle *pickle, uint32_t value);

/* Text of a file made fit for a sentence, as saei_show does; what is no UTF-8 becomes '?'. Returns out. */
const char *saei_pickle_show(char *out, const unsigned char *text, size_t n);

#endif

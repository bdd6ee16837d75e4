/* A strict JSON reader (RFC 8259) for small texts from strangers: no recursion, depth and size bounded, keys of an object unique, strings
 * valid UTF-8 without NUL, memory from the host alone. It also takes NaN, Infinity and -Infinity, which Python's json writes.
 *
 * Why not a JSON library: the common ones take memory from malloc, behind the host's back, or change process-wide hooks; jansson 2.14
 * ignores a failed allocation while it gathers a string and then reads past the end, or returns a key that lacks a letter. */
#ifndef SAEI_JSON_H
#define SAEI_JSON_H

#include "host/host.h"

enum {
    SAEI_JSON_DEPTH = 64,       /* objects and arrays inside each other */
    SAEI_JSON_VALUES = 1 << 20, /* values in one text */
    SAEI_SHOWN = 48             /* bytes of a name made fit for an error sentence */
};

typedef enum saei_json_type {
    SAEI_JSON_NULL,
    SAEI_JSON_FALSE,
    SAEI_JSON_TRUE,
    SAEI_JSON_INTEGER, /* written as an integer and fits int64_t */
    SAEI_JSON_NUMBER,  /* any other number */
    SAEI_JSON_STRING,
    SAEI_JSON_ARRAY,
    SAEI_JSON_OBJECT
} saei_json_type;

typedef struct saei_json_value {
    const char *string; /* decoded, NUL-terminated; strings only */
    int64_t integer;
    double number; /* of integers too: the nearest double, infinite beyond its range */
    uint32_t type;
    uint32_t n;    /* elements of an array, members of an object */
    uint32_t next; /* index of the value behind this one and all that is inside it */
    uint32_t at;   /* offset in the text, for error sentences */
} saei_json_value;

/* Values in the order of the text: v[0] is the whole. What is inside a container follows it; an object's members are a string (the key)
 * and a value each. To walk: i + 1 is the first inside i, v[i].next the neighbour. */
typedef struct saei_json {
    saei_json_value *v;
    uint32_t n;
    uint32_t room;
    char *strings; /* all decoded strings */
    size_t strings_bytes;
} saei_json;

/* Reads `text`, `what` names it in sentences. Errors: SAE_E_FORMAT with line and column, SAE_E_NOMEM. */
sae_status saei_json_parse(saei_json *out, const saei_host *host, const char *text, size_t bytes, const char *what, sae_error *err);
void saei_json_free(saei_json *json, const saei_host *host);

/* Index of the value of `key` in an object; 0 when it is absent, null, or `object` is no object. */
uint32_t saei_json_member(const saei_json *json, uint32_t object, const char *key);

/* The string at index i, or NULL when i is 0 or no string. */
const char *saei_json_string(const saei_json *json, uint32_t i);

/* *out is the number at index i, an integer or not; false, and *out as it was, when i is 0 or no number. */
bool saei_json_number(double *out, const saei_json *json, uint32_t i);

/* "null", "false", "a string", ... for sentences. */
const char *saei_json_type_name(const saei_json *json, uint32_t i);

/* Copies a name from a file for a sentence: cut at a whole character, control characters replaced. Returns out. */
const char *saei_show(char out[SAEI_SHOWN], const char *name);

#endif

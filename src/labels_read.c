/* Files of labels: compressed or not, lines or one document, and which format they are. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "labels.h"

enum { CHUNK = 1 << 16 };
static const size_t most_text = (size_t)1 << 30; /* of a line, or of a document */

const label_format *const label_formats[] = {&labels_neuronpedia, &labels_circuits, &labels_dashboard, &labels_delphi, NULL};

/* What has been read of a file: text[begin .. end) waits. */
typedef struct reader {
    gzFile in;
    char *text;
    size_t begin, end, room;
} reader;

static gzFile open_file(const labels *l, const char *path)
{
    gzFile in = strcmp(path, "-") == 0 ? gzdopen(dup(STDIN_FILENO), "rb") : gzopen(path, "rb");
    if (in == NULL) {
        labels_fail(l, "cannot open: %s", strerror(errno));
    }
    return in;
}

/* Reads on; false at the end. */
static bool read_more(reader *r, const labels *l)
{
    int code;
    if (r->end - r->begin >= most_text) {
        labels_fail(l, "it is longer than %zu bytes", most_text);
    }
    if (r->room - r->end < CHUNK) {
        memmove(r->text, r->text + r->begin, r->end - r->begin);
        r->end -= r->begin;
        r->begin = 0;
        r->room = r->room - r->end < CHUNK ? 2 * r->room + CHUNK : r->room;
        r->text = retake(r->text, r->room, 1);
    }
    errno = 0;
    int n = gzread(r->in, r->text + r->end, CHUNK);
    gzerror(r->in, &code);
    if (n < 0 || code == Z_BUF_ERROR) {
        labels_fail(l, "cannot read: %s",
                    code == Z_ERRNO       ? strerror(errno)
                    : code == Z_BUF_ERROR ? "the compressed file ends too early"
                                          : "the compressed file is damaged");
    }
    r->end += (size_t)n;
    return n > 0;
}

/* The line that begins at r->begin, whole in memory; false after the last. */
static bool find_line(reader *r, const labels *l, char **line, size_t *n)
{
    size_t seen = 0;
    char *end = NULL;
    do {
        end = r->end - r->begin > seen ? memchr(r->text + r->begin + seen, '\n', r->end - r->begin - seen) : NULL;
        seen = r->end - r->begin;
    } while (end == NULL && read_more(r, l));
    *line = r->text + r->begin;
    *n = end != NULL ? (size_t)(end - *line) : seen;
    r->begin += *n + (end != NULL);
    return end != NULL || seen > 0;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* The next line that is not blank, without blanks around it; false after the last. */
static bool next_line(reader *r, labels *l, char **line, size_t *n)
{
    for (*n = 0; *n == 0;) {
        if (!find_line(r, l, line, n)) {
            return false;
        }
        l->line++;
        for (; *n > 0 && is_blank((*line)[*n - 1]); (*n)--) {
        }
        for (; *n > 0 && is_blank(**line); (*line)++, (*n)--) {
        }
    }
    return true;
}

/* Python writes NaN and Infinity, which are no JSON: null stands for them. NULL when there are none. */
static char *without_nan(const char *text, size_t n, size_t *fixed_n)
{
    static const char *const names[] = {"-Infinity", "Infinity", "NaN"};
    char *fixed = take(n + n / 3 + 1, 1), *to = fixed;
    bool quoted = false, found = false;
    for (size_t i = 0; i < n;) {
        size_t k = 0, length = 0;
        for (; !quoted && k < 3 && length == 0; k++) {
            size_t want = strlen(names[k]);
            length = n - i >= want && memcmp(text + i, names[k], want) == 0 ? want : 0;
        }
        if (length > 0) {
            memcpy(to, "null", 4);
            to += 4;
            i += length;
            found = true;
            continue;
        }
        if (quoted && text[i] == '\\' && i + 1 < n) {
            *to++ = text[i++];
        } else if (text[i] == '"') {
            quoted = !quoted;
        }
        *to++ = text[i++];
    }
    *fixed_n = (size_t)(to - fixed);
    if (!found) {
        free(fixed);
        return NULL;
    }
    return fixed;
}

static json_t *parse(const char *text, size_t n, json_error_t *error)
{
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY;
    json_t *value = json_loadb(text, n, flags, error);
    size_t fixed_n;
    char *fixed = value == NULL ? without_nan(text, n, &fixed_n) : NULL;
    if (fixed != NULL) {
        value = json_loadb(fixed, fixed_n, flags, error);
        free(fixed);
    }
    return value;
}

/* The next value: a line, or, where the first line is only the begin of one, the whole file. NULL after the last. */
static json_t *next_value(reader *r, labels *l)
{
    char *line;
    size_t n;
    json_error_t error;
    if (!next_line(r, l, &line, &n)) {
        return NULL;
    }
    json_t *value = parse(line, n, &error);
    if (value == NULL && l->values == 0 && json_error_code(&error) == json_error_premature_end_of_input) {
        r->begin = (size_t)(line - r->text);
        while (read_more(r, l)) {
        }
        value = parse(r->text + r->begin, r->end - r->begin, &error);
        l->line += error.line > 0 ? error.line - 1 : 0;
        r->begin = r->end;
    }
    if (value == NULL) {
        labels_fail(l, "column %d: %s", error.column, error.text);
    }
    l->values++;
    return value;
}

/* Which format begins with this value; NULL = none. */
static const label_format *format_of(const labels *l, const json_t *value, bool found)
{
    for (int i = 0; l->format == NULL && label_formats[i] != NULL; i++) {
        if (label_formats[i]->fits(l, value)) {
            return label_formats[i];
        }
    }
    if (l->format == NULL && !found) {
        labels_fail(l, "it fits no format: %s, %s, %s, %s; --format NAME reads it all the same", labels_neuronpedia.what,
                    labels_circuits.what, labels_dashboard.what, labels_delphi.what);
    }
    return l->format;
}

void labels_read(labels *l, const char *path, bool found)
{
    l->file = path;
    l->line = l->values = 0;
    l->entry = -1;
    reader r = {.in = open_file(l, path), .room = CHUNK};
    r.text = take(r.room, 1);
    gzbuffer(r.in, CHUNK);
    const label_format *format = NULL;
    for (json_t *value; (value = next_value(&r, l)) != NULL; json_decref(value)) {
        format = format != NULL ? format : format_of(l, value, found);
        if (format == NULL) {
            json_decref(value);
            break;
        }
        format->take(l, value);
        progress_at(l->progress, l->features);
    }
    l->used = format != NULL ? format : l->used;
    l->files += format != NULL || !found;
    l->files_skipped += format == NULL && found;
    gzclose_r(r.in);
    free(r.text);
}

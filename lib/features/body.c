#ifdef SAEI_SQLITE
#include <math.h>
#include <string.h>

#include "features/catalog.h"

/* A body, little-endian: u32 n_promoted, n_suppressed, n_examples; the tokens of both lists; then for each example i32 n_tokens, peak,
 * document, position and its tokens. A token is its f32 value and its text with the final NUL. */

static void pack_tokens(saei_bytes *out, const saei_host *host, const sae_token *tokens, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        saei_bytes_add(out, host, &tokens[i].value, sizeof tokens[i].value);
        saei_bytes_add(out, host, tokens[i].text, strlen(tokens[i].text) + 1);
    }
}

void saei_body_pack(saei_bytes *out, const saei_host *host, const sae_feature *f)
{
    const int32_t counts[3] = {f->n_promoted, f->n_suppressed, f->n_examples};
    saei_bytes_add(out, host, counts, sizeof counts);
    pack_tokens(out, host, f->promoted, f->n_promoted);
    pack_tokens(out, host, f->suppressed, f->n_suppressed);
    for (int32_t i = 0; i < f->n_examples; i++) {
        const sae_example *e = &f->examples[i];
        const int32_t head[4] = {e->n_tokens, e->peak, e->document, e->position};
        saei_bytes_add(out, host, head, sizeof head);
        pack_tokens(out, host, e->tokens, e->n_tokens);
    }
}

/* What is left to read of a body that may be anything. */
typedef struct cursor {
    const char *at, *end;
    saei_pile *arena;
    bool no_memory;
} cursor;

static bool get(cursor *c, void *to, size_t bytes)
{
    if ((size_t)(c->end - c->at) < bytes)
        return false;
    memcpy(to, c->at, bytes);
    c->at += bytes;
    return true;
}

static void *array(cursor *c, size_t n, size_t each)
{
    void *p = saei_pile_take(c->arena, n * each); /* n is at most SAE_MOST_TOKENS */
    c->no_memory |= !p;
    return p;
}

static bool unpack_token(cursor *c, sae_token *t)
{
    if (!get(c, &t->value, sizeof t->value) || !isfinite(t->value))
        return false;
    const char *nul = memchr(c->at, '\0', (size_t)(c->end - c->at));
    if (!nul || !saei_utf8(c->at, (size_t)(nul - c->at)))
        return false;
    t->text = c->at;
    c->at = nul + 1;
    return true;
}

static const sae_token *unpack_tokens(cursor *c, int32_t n, int32_t most)
{
    sae_token *tokens = n < 0 || n > most ? NULL : array(c, (size_t)n, sizeof *tokens);
    for (int32_t i = 0; tokens && i < n; i++) {
        tokens[i].reserved = 0;
        if (!unpack_token(c, &tokens[i]))
            return NULL;
    }
    return tokens;
}

static bool unpack_example(cursor *c, sae_example *e)
{
    int32_t head[4];
    if (!get(c, head, sizeof head) || head[1] < -1 || head[1] >= head[0] || head[2] < -1 || head[3] < -1)
        return false;
    *e = (sae_example){unpack_tokens(c, head[0], SAE_MOST_TOKENS), head[0], head[1], head[2], head[3]};
    return e->tokens;
}

static bool unpack_examples(cursor *c, sae_feature *f, int32_t n)
{
    sae_example *examples = n < 0 || n > SAE_MOST_ENTRIES ? NULL : array(c, (size_t)n, sizeof *examples);
    for (int32_t i = 0; examples && i < n; i++)
        if (!unpack_example(c, &examples[i]))
            return false;
    f->examples = examples;
    f->n_examples = n;
    return examples;
}

static bool unpack(cursor *c, sae_feature *f)
{
    int32_t n[3];
    if (!get(c, n, sizeof n) || !(f->promoted = unpack_tokens(c, n[0], SAE_MOST_ENTRIES)) ||
        !(f->suppressed = unpack_tokens(c, n[1], SAE_MOST_ENTRIES)))
        return false;
    f->n_promoted = n[0];
    f->n_suppressed = n[1];
    return unpack_examples(c, f, n[2]) && c->at == c->end;
}

sae_status saei_body_unpack(sae_feature *f, saei_pile *a, const void *body, size_t bytes, sae_error *err)
{
    char *copy = saei_pile_take(a, bytes);
    cursor c = {copy, copy + bytes, a, !copy};
    if (copy && bytes)
        memcpy(copy, body, bytes);
    if (copy && unpack(&c, f))
        return SAE_OK;
    if (c.no_memory)
        return saei_fail(err, SAE_E_NOMEM, "no memory for the tokens and examples of feature %d (%zu bytes packed)", (int)f->id, bytes);
    return saei_fail(err, SAE_E_FORMAT, "the tokens and examples of feature %d are damaged: get a good copy of the catalog", (int)f->id);
}
#endif

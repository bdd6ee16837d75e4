/* An opened SAE with what it runs on. */
#ifndef TOOL_SESSION_H
#define TOOL_SESSION_H

#include "args.h"
#include "rows.h"

typedef struct session {
    sae_pool *pool;
    sae_env *env;
    sae_model *model;
    sae_info info;
} session;

/* Opens and prepares (`path` NULL: no SAE, only what it would run on); warnings of the file go to standard error when `warnings`. */
session session_open(const model_args *m, const char *path, bool warnings);
void session_close(session *s);

/* How many of the rows go into one call, and scratch for it: a block, but all rows of a temporal SAE, which are one sequence. */
int64_t session_block(const session *s, const rows *r);
sae_ctx *session_ctx(const session *s, const rows *r, const char *path);

/* Ends the tool with the library's sentence unless status is SAE_OK. `about` is the file the call was about. */
void expect_ok(sae_status status, const sae_error *err, const char *about);
void expect_ctx_ok(sae_status status, const sae_ctx *ctx, const char *about);

#endif

#ifdef SAEI_SQLITE
#include "features/catalog.h"

#include <string.h>

#include "model/model.h"

enum { WAIT_MS = 5000 };

static sae_status new_catalog(sae_catalog **out, sae_env *env, const char *path, sae_error *err)
{
    sae_catalog *c = saei_zalloc(&env->host, sizeof *c);
    if (!c)
        return saei_fail(err, SAE_E_NOMEM, "no memory for a catalog handle of %zu bytes", sizeof *c);
    if (!saei_lock_init(&c->lock)) {
        saei_dealloc(&env->host, c, sizeof *c);
        return saei_fail(err, SAE_E_NOMEM, "the system gave no lock for a catalog");
    }
    c->env = env;
    saei_env_take(env);
    if (!(c->path = saei_strdup(&env->host, path))) {
        sae_catalog_free(c);
        return saei_fail(err, SAE_E_NOMEM, "no memory for the path of a catalog");
    }
    *out = c;
    return SAE_OK;
}

void sae_catalog_free(sae_catalog *c)
{
    if (!c)
        return;
    sae_env *env = c->env;
    const saei_host *host = &env->host;
    for (int i = 0; i < SAEI_N_STATEMENTS; i++)
        (void)sqlite3_finalize(c->statements[i]);
    (void)sqlite3_close(c->db); /* an open transaction is rolled back */
    saei_bytes_free(&c->body, host);
    saei_bytes_free(&c->words, host);
    saei_bytes_free(&c->old, host);
    saei_strfree(host, c->path);
    saei_strfree(host, c->model_name);
    saei_strfree(host, c->hook_name);
    saei_lock_end(&c->lock);
    saei_dealloc(host, c, sizeof *c);
    sae_env_free(env);
}

/* Names that mean something else to SQLite (":memory:", "file:x?y", "") become plain paths. */
static sae_status connect(sae_catalog *c, int flags, sae_error *err)
{
    char *path = c->path[0] == '/' ? sqlite3_mprintf("%s", c->path) : sqlite3_mprintf("./%s", c->path);
    if (!path)
        return saei_fail(err, SAE_E_NOMEM, "SQLite found no memory to open %s", c->path);
    const int rc = sqlite3_open_v2(path, &c->db, flags | SQLITE_OPEN_NOMUTEX, NULL);
    sqlite3_free(path);
    return rc ? saei_sql_fail(c, rc, "open", err) : saei_harden(c, err);
}

/* What a new catalog says of its SAE. */
static sae_status describe(sae_catalog *c, sae_model *model, sae_error *err)
{
    const saei_host *host = &c->env->host;
    c->d_in = model->parts.d_in;
    c->d_sae = model->parts.d_sae;
    c->model_name = saei_strdup(host, sae_model_text(model, SAE_TEXT_MODEL_NAME));
    c->hook_name = saei_strdup(host, sae_model_text(model, SAE_TEXT_HOOK_NAME));
    if (!c->model_name || !c->hook_name)
        return saei_fail(err, SAE_E_NOMEM, "no memory for the names of the SAE");
    return sae_model_fingerprint(model, c->fingerprint, err);
}

static sae_status create(sae_catalog *c, sae_model *model, sae_error *err)
{
    c->access = SAE_CATALOG_WRITE;
    c->wait_ms = WAIT_MS;
    sae_status status = describe(c, model, err);
    if (status)
        return status;
    if (saei_path_kind(c->path) >= 0)
        return saei_fail(err, SAE_E_IO, "%s exists already: open it for writing, or remove it", c->path);
    status = connect(c, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, err);
    if (!status && (status = saei_schema_write(c, err)))
        saei_file_remove(c->path);
    return status;
}

sae_status sae_catalog_create(sae_catalog **out, sae_env *env, const char *path, sae_model *model, sae_error *err)
{
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_catalog_create: out is NULL");
    *out = NULL;
    if (!env || !path || !model)
        return saei_fail(err, SAE_E_ARG, "sae_catalog_create: %s is NULL", !env ? "env" : !path ? "path" : "model");
    sae_catalog *c;
    sae_status status = new_catalog(&c, env, path, err);
    if (status)
        return status;
    if ((status = create(c, model, err))) {
        sae_catalog_free(c);
        return status;
    }
    *out = c;
    return saei_ok(err);
}

static sae_status read_options(sae_catalog_options *o, const sae_catalog_options *opt, sae_error *err)
{
    *o = (sae_catalog_options){0};
    const sae_status status = opt ? saei_read_struct(o, sizeof *o, opt, "sae_catalog_options", err) : SAE_OK;
    if (status)
        return status;
    if (o->access != SAE_CATALOG_READ && o->access != SAE_CATALOG_WRITE)
        return saei_fail(err, SAE_E_ARG, "access = %d is neither SAE_CATALOG_READ nor SAE_CATALOG_WRITE", (int)o->access);
    if (o->force < SAE_DEFAULT || o->force > SAE_NO)
        return saei_fail(err, SAE_E_ARG, "force = %d is not SAE_YES or SAE_NO", (int)o->force);
    if (o->wait_ms < -1)
        return saei_fail(err, SAE_E_ARG, "wait_ms = %d: give milliseconds, 0 for %d, or -1 for none", (int)o->wait_ms, WAIT_MS);
    o->wait_ms = o->wait_ms < 0 ? 0 : o->wait_ms ? o->wait_ms : WAIT_MS;
    return SAE_OK;
}

/* 32 digits. */
static const char *hex(char out[33], const uint8_t fingerprint[16])
{
    for (int i = 0; i < 32; i++)
        out[i] = "0123456789abcdef"[fingerprint[i / 2] >> (i % 2 ? 0 : 4) & 15];
    out[32] = '\0';
    return out;
}

/* Is this the catalog of that SAE? */
static sae_status check_model(const sae_catalog *c, sae_model *model, bool force, sae_error *err)
{
    uint8_t fingerprint[16];
    char theirs[33], ours[33];
    const sae_status status = sae_model_fingerprint(model, fingerprint, err);
    if (status)
        return status;
    if (c->d_sae != model->parts.d_sae)
        return saei_fail(err, SAE_E_SHAPE, "the catalog is of an SAE with d_sae = %d, this one has d_sae = %d: %s", (int)c->d_sae,
                         (int)model->parts.d_sae, c->path);
    if (force || memcmp(fingerprint, c->fingerprint, sizeof fingerprint) == 0)
        return SAE_OK;
    return saei_fail(err, SAE_E_SHAPE, "the catalog is of another SAE, %s at '%.40s', not of this one, %s at '%.40s': %s",
                     hex(theirs, c->fingerprint), c->hook_name, hex(ours, fingerprint), sae_model_text(model, SAE_TEXT_HOOK_NAME), c->path);
}

static sae_status open_catalog(sae_catalog *c, const sae_catalog_options *o, sae_error *err)
{
    c->access = o->access;
    c->wait_ms = o->wait_ms;
    const int kind = saei_path_kind(c->path);
    if (kind != 0)
        return saei_fail(err, SAE_E_IO, "cannot open %s: %s", c->path, kind < 0 ? "No such file or directory" : "it is a folder");
    /* For reading too: only a connection that may write undoes what a killed writer left. SQLite opens what is write-protected for reading. */
    sae_status status = connect(c, SQLITE_OPEN_READWRITE, err);
    status = status ? status : saei_schema_read(c, err);
    if (!status && c->access == SAE_CATALOG_WRITE && sqlite3_db_readonly(c->db, "main"))
        return saei_fail(err, SAE_E_IO, "%s is write-protected: open it for reading", c->path);
    return status || !o->model ? status : check_model(c, o->model, o->force == SAE_YES, err);
}

sae_status sae_catalog_open(sae_catalog **out, sae_env *env, const char *path, const sae_catalog_options *opt, sae_error *err)
{
    sae_catalog_options o;
    sae_status status;
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_catalog_open: out is NULL");
    *out = NULL;
    if (!env || !path)
        return saei_fail(err, SAE_E_ARG, "sae_catalog_open: %s is NULL", env ? "path" : "env");
    if ((status = read_options(&o, opt, err)))
        return status;
    sae_catalog *c;
    if ((status = new_catalog(&c, env, path, err)))
        return status;
    if ((status = open_catalog(c, &o, err))) {
        sae_catalog_free(c);
        return status;
    }
    *out = c;
    return saei_ok(err);
}

sae_status sae_catalog_info(const sae_catalog *c, sae_catalog_about *out)
{
    if (!c || !out)
        return SAE_E_ARG;
    sae_catalog_about about = {
        .schema = SAEI_SCHEMA, .model_name = c->model_name, .hook_name = c->hook_name, .d_in = c->d_in, .d_sae = c->d_sae};
    memcpy(about.fingerprint, c->fingerprint, sizeof about.fingerprint);
    return saei_write_struct(out, &about, sizeof about, "sae_catalog_about", NULL);
}
#endif

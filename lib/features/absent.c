/* In a libsae built without SQLite there are no catalogs: what would make one says so. */
#include "base/base.h"
#include "sae/features.h"

#ifndef SAEI_SQLITE
static sae_status absent(sae_error *err)
{
    return saei_fail(err, SAE_E_UNSUPPORTED, "this libsae was built without SQLite, so it has no catalogs: build it with SQLITE=1");
}

sae_status sae_catalog_create(sae_catalog **out, sae_env *env, const char *path, sae_model *model, sae_error *err)
{
    (void)env, (void)path, (void)model;
    if (out)
        *out = NULL;
    return absent(err);
}

sae_status sae_catalog_open(sae_catalog **out, sae_env *env, const char *path, const sae_catalog_options *opt, sae_error *err)
{
    (void)env, (void)path, (void)opt;
    if (out)
        *out = NULL;
    return absent(err);
}

sae_status sae_catalog_info(const sae_catalog *catalog, sae_catalog_about *out)
{
    (void)catalog, (void)out;
    return SAE_E_ARG;
}

sae_status sae_catalog_begin(sae_catalog *catalog, sae_error *err)
{
    (void)catalog;
    return absent(err);
}

sae_status sae_catalog_commit(sae_catalog *catalog, sae_error *err)
{
    (void)catalog;
    return absent(err);
}

void sae_catalog_rollback(sae_catalog *catalog)
{
    (void)catalog;
}

sae_status sae_catalog_put(sae_catalog *catalog, const sae_feature *feature, sae_error *err)
{
    (void)catalog, (void)feature;
    return absent(err);
}

sae_status sae_catalog_count(sae_catalog *catalog, int64_t *out, sae_error *err)
{
    (void)catalog, (void)out;
    return absent(err);
}

sae_status sae_catalog_get(sae_features **out, sae_catalog *catalog, const int32_t *ids, int64_t n, sae_error *err)
{
    (void)catalog, (void)ids, (void)n;
    if (out)
        *out = NULL;
    return absent(err);
}

sae_status sae_catalog_search(sae_features **out, sae_catalog *catalog, const char *query, int32_t limit, sae_error *err)
{
    (void)catalog, (void)query, (void)limit;
    if (out)
        *out = NULL;
    return absent(err);
}

sae_status sae_catalog_list(sae_features **out, sae_catalog *catalog, const sae_list_options *opt, sae_error *err)
{
    (void)catalog, (void)opt;
    if (out)
        *out = NULL;
    return absent(err);
}

void sae_catalog_free(sae_catalog *catalog)
{
    (void)catalog;
}

int64_t sae_features_count(const sae_features *features)
{
    (void)features;
    return 0;
}

sae_status sae_features_at(const sae_features *features, int64_t i, sae_feature *out)
{
    (void)features, (void)i, (void)out;
    return SAE_E_ARG;
}

void sae_features_free(sae_features *features)
{
    (void)features;
}
#endif

/* Catalogs of features as the commands meet them. */
#ifndef TOOL_FEATURES_H
#define TOOL_FEATURES_H

#include <jansson.h>

#include "session.h"

/* Opens a catalog for reading; with an SAE in the session it must be that SAE's, unless `force`. */
sae_catalog *features_open(const session *s, const char *path, bool force);

/* Opens a catalog of the session's SAE for writing, or makes it when there is none; *made says which. */
sae_catalog *features_open_or_create(const session *s, const char *path, bool force, bool *made);

/* The i-th of a list. */
sae_feature features_at(const sae_features *list, int64_t i);

/* {feature label density mean max}; what is unknown is null. */
json_t *feature_json(const sae_feature *f);

/* A label for people: on one line, and what stands for it when there is none. */
const char *feature_label(char out[128], const sae_feature *f);

#endif

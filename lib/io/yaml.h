/* YAML configurations (circuit-tracer, wandb, temporal SAEs) into the values of the JSON reader, so that formats ask one kind of tree. */
#ifndef SAEI_YAML_H
#define SAEI_YAML_H

#include "io/json.h"

enum { SAEI_YAML_BYTES = 1 << 20 /* of one text */ };

/* Reads one YAML document by libyaml's events: mappings, sequences, scalars (plain ones become null, true, false, integer, number or string by
 * the YAML 1.2 core schema; a key is its text whatever it looks like, since configurations have keys such as 1). Refused: anchors, aliases,
 * tags, merge keys, keys that are no scalars, several documents or none, what SAEI_JSON_* bounds, texts above SAEI_YAML_BYTES. `what` names it
 * in sentences. Errors: SAE_E_FORMAT with line and column, SAE_E_NOMEM. Free with saei_json_free. */
sae_status saei_yaml_parse(saei_json *out, const saei_host *host, const char *text, size_t bytes, const char *what, sae_error *err);

#endif

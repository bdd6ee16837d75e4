/* YAML configurations (circuit-tracer, wandb, temporal SAEs) into the values of the JSON reader, so that formats ask one kind of tree. */
#ifndef SAEI_YAML_H
#define SAEI_YAML_H

#include "io/json.h"

/* Reads one YAML document by libyaml's events: mappings with string keys, sequences, scalars (plain ones become null, true, false, integer,
 * number or string by the YAML 1.2 core schema). Refused: anchors, aliases, tags, several documents, what SAEI_JSON_* bounds, texts above
 * 1 MiB. `what` names it in sentences. Errors: SAE_E_FORMAT with line and column, SAE_E_NOMEM. Free with saei_json_free. */
sae_status saei_yaml_parse(saei_json *out, const saei_host *host, const char *text, size_t bytes, const char *what, sae_error *err);

#endif

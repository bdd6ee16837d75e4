/* The checkpoints of tests/golden, as golden.json and their fixture.json tell of them. */
#ifndef SUPPORT_FIXTURES_H
#define SUPPORT_FIXTURES_H

#include <jansson.h>
#include <sae.h>

#define GOLDEN_FOLDER "tests/golden/"

/* The list of golden.json; NULL when it cannot be read. json_decref frees it. */
json_t *fixtures_list(void);

/* "saelens/topk" of entry i. */
const char *fixture_path(json_t *list, size_t i);

/* Its fixture.json; NULL when it cannot be read. */
json_t *fixture_about(const char *path);

/* The folder that holds its files, relative to that of the fixture: "" or "layers.3". Returns out. */
const char *fixture_place(char out[256], json_t *about);

/* What no file of the checkpoint says: the layer of a set, a factor, k where only the name of the repository has it. `layer` is for the
 * option's text. */
sae_open_options fixture_options(const char *path, json_t *about, char layer[16]);

#endif

/* What the fuzz targets share: bytes as numbers, and one small model from memory. A target is a LLVMFuzzerTestOneInput that libFuzzer
 * calls (`make fuzz`) and that replay.c calls with the corpus (`make check`). */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include <sae.h>
#include <stdbool.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The input, eaten from the front; past its end everything is 0. */
typedef struct input {
    const uint8_t *at;
    size_t left;
} input;

void input_take(input *in, void *to, size_t bytes);
uint8_t input_byte(input *in);
int32_t input_int(input *in, int32_t most); /* anything up to `most`, as often small as wild, negative too */

/* Ends the process, which is what a fuzzer takes for a find. */
void fuzz_need(bool held, const char *what);

enum { FUZZ_D = 9, FUZZ_N = 24 };

/* Models of every architecture and normaliser, made once. `which` may be anything. */
sae_model *fuzz_model(uint32_t which);
sae_env *fuzz_env(void);

/* A container from hostile bytes, whose tensors stay in the file: what the reader says of them is true, or it gives a sentence. */
struct saei_store;
struct saei_host;
struct saei_file;
typedef sae_status saei_container(struct saei_store *store, const struct saei_host *host, const struct saei_file *file, int32_t file_index,
                                  const char *name, sae_error *err);
void fuzz_container(const uint8_t *data, size_t size, saei_container *read);

/* Makes magic, length and checksums of a .sae file true: no fuzzer finds those by itself. */
void fuzz_repair_sae(uint8_t *file, size_t size);

/* Is a tree of the readers of JSON and YAML what io/json.h promises? */
struct saei_json;
void fuzz_tree(const struct saei_json *json);

#endif

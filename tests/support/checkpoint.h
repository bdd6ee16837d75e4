/* Small SAELens folders made by tests. */
#ifndef SUPPORT_CHECKPOINT_H
#define SUPPORT_CHECKPOINT_H

#include <stddef.h>

typedef struct checkpoint {
    char dir[256];
    char path[300]; /* of the weights, "" until written */
    char header[4096];
    size_t header_bytes;
    unsigned char data[1 << 16];
    size_t data_bytes;
} checkpoint;

/* Makes an empty temporary folder. */
void checkpoint_begin(checkpoint *c);

/* Forgets the tensors, keeps the folder. */
void checkpoint_clear(checkpoint *c);

/* Adds a tensor; shape is text, "[4,8]". */
void checkpoint_tensor(checkpoint *c, const char *name, const char *dtype, const char *shape, const void *data, size_t bytes);

/* Adds n float32 values 0.25, -0.5, 0.75, ... as a tensor. */
void checkpoint_floats(checkpoint *c, const char *name, const char *shape, size_t n);

/* Writes cfg.json (unless NULL) and sae_weights.safetensors. */
void checkpoint_write(checkpoint *c, const char *config);

/* Any file in the folder. */
void checkpoint_file(checkpoint *c, const char *name, const void *data, size_t bytes);
void checkpoint_remove(checkpoint *c, const char *name);

/* Removes the folder and all files in it. */
void checkpoint_end(checkpoint *c);

#endif

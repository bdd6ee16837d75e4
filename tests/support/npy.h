/* Reads the .npy and .npz files of tests/golden and of the optional test data. */
#ifndef SUPPORT_NPY_H
#define SUPPORT_NPY_H

#include <stddef.h>

typedef struct npy {
    double *v; /* [rows][columns]; free() it. Exact for all that is read */
    size_t rows;
    size_t columns; /* 1 for a vector */
} npy;

/* A little-endian array of one or two dimensions in C order, of float32, float64, int32 or int64 (below 2^53); v is NULL when the file is
 * missing or anything else. */
npy npy_read(const char *path);

/* The same of a member of an .npz whose members are stored, not deflated; `name` without ".npy". */
npy npz_read(const char *path, const char *name);

#endif

/* The header of NumPy's .npy: a Python dict in a fixed frame. */
#ifndef TOOL_NPY_H
#define TOOL_NPY_H

#include "array.h"

/* Reads up to n bytes; fewer means the end. */
typedef size_t (*npy_read)(void *from, void *buf, size_t n);

/* Reads a header, versions 1 to 3, and gives its bytes; `file` is for sentences. Python objects, big-endian types and Fortran order
 * are refused; a type that the tool does not know becomes ELEM_OTHER. The name of `out` is not touched. */
size_t npy_header_read(array *out, const char *file, npy_read read, void *from);

/* The header for an array, padded to 64 bytes as NumPy does; in `buf`, bytes returned. */
enum { NPY_HEADER_MAX = 512 };
size_t npy_header_make(char buf[NPY_HEADER_MAX], const array *a);

#endif

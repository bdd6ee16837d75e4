/* Files of arrays that are written from front to back, to a temporary file that takes the real name when all is there. */
#ifndef TOOL_OUTPUT_H
#define TOOL_OUTPUT_H

#include "array.h"

typedef enum output_kind { OUTPUT_NPY, OUTPUT_NPZ, OUTPUT_SAFETENSORS } output_kind;

/* The format a path asks for by its ending; "-" is .npy for one array, .npz for `several`. A usage error otherwise. */
output_kind output_kind_of(const char *path, bool several);

typedef struct output output;

/* Begins a file that will hold `arrays` [n], in that order. Takes over their names. */
output *output_open(const char *path, output_kind kind, array *arrays, int n);

/* Appends elements; an array that is complete is followed by the next. */
void output_put(output *out, const void *p, size_t bytes);

/* Appends a whole scratch file. */
void output_put_file(output *out, FILE *file);

/* All elements are there: gives the file its name. */
void output_commit(output *out);

#endif

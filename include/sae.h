/* libsae: sparse autoencoders (SAEs) for inference engines.
 *
 * Include this file; link with `pkg-config --cflags --libs sae`. The rules that hold for every function:
 *
 *  - Handles are opaque. `*_create` and `*_open` hand a new reference to the caller, who gives it back with the
 *    matching `*_free`. `*_free(NULL)` does nothing, and frees may come in any order: children keep their parents alive
 *    (a `sae_taps` keeps its env alone: plans, probes and contexts that it is given must outlive it).
 *  - `out` comes first in constructors and is set to NULL when they fail. Nothing is ever half made.
 *  - A struct that opens with `struct_size` grows only at its end. Zero it, set `struct_size = sizeof it` (no other number); a zero field
 *    means the default. A larger struct whose unknown tail is not zero is refused with SAE_E_VERSION.
 *  - Sizes in bytes end in `_bytes`; everything else counts elements. Matrices are row-major, shapes are written
 *    `[n_rows][d_in]`. Rows and weights may lie at any byte alignment; every other array is aligned as C aligns its elements.
 *  - `sae_env`, `sae_model`, `sae_probe`, `sae_plan`, `sae_index` and `sae_gemm` never change what they answer and may be shared by any
 *    number of threads. A `sae_ctx` serves one call at a time (a second one gets SAE_E_BUSY), a `sae_taps` one decode of one engine; calls on
 *    a `sae_catalog` wait for each other.
 *  - The library never prints, aborts, reads the environment, starts threads (except sae_pool) or keeps global state. After
 *    a create call has returned, the compute calls neither allocate nor take a lock nor make a system call. The exceptions are
 *    SAE_GEMM_BLIS, for those who choose it (see sae/gemm.h), and SQLite behind sae_catalog, which has a process-wide allocator and lock.
 *
 * Numbers. For a given model and input row, indices and values do not depend on the batch, the number of threads or the
 * instruction set: every published value is one chain of fused multiply-adds in index order,
 * `acc = 0; for k: acc = fma(w[k], x[k], acc)`, then `+ bias`, in IEEE binary32, round to nearest, denormals kept. NaN and Inf
 * in a row are not errors: a pre-activation that is not finite is inactive, and counted (sae_ctx_nonfinite). */
#ifndef SAE_H
#define SAE_H

/* The version of this header; sae_version() gives the library's. */
#define SAE_VERSION_MAJOR 0
#define SAE_VERSION_MINOR 1
#define SAE_VERSION_PATCH 0

#include "sae/base.h"
#include "sae/host.h"
#include "sae/env.h"
#include "sae/model.h"
#include "sae/save.h"
#include "sae/codec.h"
#include "sae/steer.h"
#include "sae/taps.h"
#include "sae/distance.h"
#include "sae/gemm.h"
#include "sae/features.h"

#endif

/* Weights into panels of fewer bytes than 4, a panel at a time. */
#include <string.h>

#include "gemm/packed.h"

enum { RUN = 64 }; /* weights of a row at a time: 48 rows of them are 6 KB of the panel */

size_t saei_kept_bytes(saei_keep as, size_t d, size_t block)
{
    const size_t heads = as == SAEI_KEEP_INT8 ? (d + block - 1) / block : 0, each = as == SAEI_KEEP_INT8 ? 1 : 2;
    size_t weights, scales, bytes, padded;
    saei_mul(&weights, d + (as == SAEI_KEEP_BF16 && d % 2), SAEI_PANEL * each);
    saei_mul(&scales, heads, SAEI_PANEL * sizeof(float));
    saei_add(&bytes, weights, scales);
    return saei_add(&padded, bytes, 63) ? padded / 64 * 64 : SIZE_MAX;
}

static void keep_halves(unsigned char *panel, saei_keep as, const saei_given *from, size_t j0, size_t n)
{
    for (size_t k0 = 0; k0 < from->n_in; k0 += RUN)
        for (size_t i = 0; i < n; i++) {
            const unsigned char *row = from->w + (j0 + i) * from->row_step;
            for (size_t k = k0; k < saei_min(k0 + RUN, from->n_in); k++)
                memcpy(panel + (as == SAEI_KEEP_BF16 ? (k / 2 * SAEI_PANEL + i) * 4 + k % 2 * 2 : (k * SAEI_PANEL + i) * 2), row + k * 2,
                       2);
        }
}

/* CHUNK weights from k0 on of a row that is not quantised yet, zeros behind the end. Loops over all of them become vectors. */
enum { CHUNK = 32 };

static void load(const saei_kernels *k, float w[CHUNK], const saei_given *from, size_t j, size_t k0, size_t end)
{
    const size_t n = saei_min(CHUNK, end - k0);
    k->widen(w, from->w + j * from->row_step + k0 * sae_dtype_bytes(from->dtype), from->dtype, n);
    for (size_t i = n; i < CHUNK; i++)
        w[i] = 0.0f;
}

/* Magnitudes of finite floats are ordered as their bits are. */
static float largest(const saei_kernels *k, const saei_given *from, size_t j, size_t k0, size_t end)
{
    uint32_t most = 0, bits[CHUNK];
    float w[CHUNK];
    for (; k0 < end; k0 += CHUNK) {
        load(k, w, from, j, k0, end);
        memcpy(bits, w, sizeof bits);
        for (size_t i = 0; i < CHUNK; i++) {
            const uint32_t magnitude = bits[i] & 0x7fffffffu;
            most = magnitude > most ? magnitude : most;
        }
    }
    memcpy(w, &most, sizeof most);
    return w[0];
}

/* To nearest even by adding and taking away 1.5 * 2^23. A scale of denormal size is too coarse: more than 127 of it may be needed. */
static float quantised(float w, float scale)
{
    const float magic = 12582912.0f, q = w / scale + magic - magic;
    return q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q;
}

/* Weights k0 .. end-1 of a row and their scale, into the head of a block and column i behind it. */
static void quantise(const saei_kernels *k, unsigned char *head, size_t i, const saei_given *from, size_t j, size_t k0, size_t end)
{
    const float scale = largest(k, from, j, k0, end) / 127.0f;
    unsigned char *to = head + SAEI_PANEL * sizeof scale + i;
    memcpy(head + i * sizeof scale, &scale, sizeof scale);
    for (; k0 < end && scale > 0.0f; k0 += CHUNK) {
        float w[CHUNK];
        load(k, w, from, j, k0, end);
        for (size_t q = 0; q < CHUNK; q++)
            w[q] = quantised(w[q], scale);
        for (size_t q = 0; q < saei_min(CHUNK, end - k0); q++, to += SAEI_PANEL)
            *to = (unsigned char)(int8_t)w[q];
    }
}

static void copy_quantised(unsigned char *head, size_t i, const saei_given *from, size_t j, size_t k0, size_t end)
{
    const size_t block = k0 / from->block;
    const float scale = saei_load(from->scales + j * from->scale_row_step + block * from->scale_step, from->dtype);
    const unsigned char *w = from->w + j * from->row_step + block * from->block_step;
    unsigned char *to = head + SAEI_PANEL * sizeof scale + i;
    memcpy(head + i * sizeof scale, &scale, sizeof scale);
    for (size_t k = 0; k < end - k0; k++)
        to[k * SAEI_PANEL] = w[k];
}

static size_t keep_int8(const saei_kernels *k, unsigned char *panel, const saei_given *from, size_t j0, size_t n)
{
    for (size_t i = 0; i < n && !from->scales; i++)
        if (k->nonfinite(from->w + (j0 + i) * from->row_step, from->dtype, from->n_in) < from->n_in)
            return j0 + i;
    for (size_t k0 = 0; k0 < from->n_in; k0 += from->block) {
        const size_t end = saei_min(k0 + from->block, from->n_in);
        for (size_t i = 0; i < n; i++) {
            if (from->scales)
                copy_quantised(panel, i, from, j0 + i, k0, end);
            else
                quantise(k, panel, i, from, j0 + i, k0, end);
        }
        panel += SAEI_PANEL * (sizeof(float) + end - k0);
    }
    return from->n_out;
}

size_t saei_keep_panel(const saei_kernels *k, const saei_kept *to, const saei_given *from, size_t j0)
{
    unsigned char *panel = (unsigned char *)(uintptr_t)to->data + j0 / SAEI_PANEL * to->panel_bytes;
    const size_t n = saei_min(SAEI_PANEL, from->n_out - j0);
    memset(panel, 0, to->panel_bytes);
    if (to->as == SAEI_KEEP_INT8)
        return keep_int8(k, panel, from, j0, n);
    keep_halves(panel, to->as, from, j0, n);
    return from->n_out;
}

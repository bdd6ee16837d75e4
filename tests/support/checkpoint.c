#include "support/checkpoint.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void give_up(const char *what)
{
    perror(what);
    exit(2);
}

static void path_of(char out[600], const checkpoint *c, const char *name)
{
    snprintf(out, 600, "%s/%s", c->dir, name);
}

void checkpoint_begin(checkpoint *c)
{
    const char *tmp = getenv("TMPDIR");
    memset(c, 0, sizeof *c);
    snprintf(c->dir, sizeof c->dir, "%s/sae-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(c->dir))
        give_up(c->dir);
    checkpoint_clear(c);
}

void checkpoint_clear(checkpoint *c)
{
    c->header_bytes = (size_t)snprintf(c->header, sizeof c->header, "{\"__metadata__\":{\"format\":\"pt\"}");
    c->data_bytes = 0;
}

void checkpoint_tensor(checkpoint *c, const char *name, const char *dtype, const char *shape, const void *data, size_t bytes)
{
    if (bytes > sizeof c->data - c->data_bytes)
        give_up("checkpoint_tensor");
    memcpy(c->data + c->data_bytes, data, bytes);
    c->header_bytes += (size_t)snprintf(c->header + c->header_bytes, sizeof c->header - c->header_bytes,
                                        ",\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}", name, dtype, shape,
                                        c->data_bytes, c->data_bytes + bytes);
    c->data_bytes += bytes;
    if (c->header_bytes + 2 > sizeof c->header)
        give_up("checkpoint_tensor");
}

void checkpoint_floats(checkpoint *c, const char *name, const char *shape, size_t n)
{
    float v[4096];
    if (n > sizeof v / sizeof *v)
        give_up("checkpoint_floats");
    for (size_t i = 0; i < n; i++)
        v[i] = 0.25f * (float)(i % 7 + 1) * (i % 2 ? -1.0f : 1.0f);
    checkpoint_tensor(c, name, "F32", shape, v, n * sizeof *v);
}

void checkpoint_file(checkpoint *c, const char *name, const void *data, size_t bytes)
{
    char path[600];
    path_of(path, c, name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file))
        give_up(path);
}

void checkpoint_remove(checkpoint *c, const char *name)
{
    char path[600];
    path_of(path, c, name);
    if (remove(path))
        give_up(path);
}

void checkpoint_write(checkpoint *c, const char *config)
{
    static unsigned char whole[8 + sizeof c->header + sizeof c->data];
    const size_t n = c->header_bytes + 1;
    for (size_t i = 0; i < 8; i++)
        whole[i] = (unsigned char)(n >> 8 * i);
    memcpy(whole + 8, c->header, c->header_bytes);
    whole[8 + c->header_bytes] = '}';
    memcpy(whole + 8 + n, c->data, c->data_bytes);
    checkpoint_file(c, "sae_weights.safetensors", whole, 8 + n + c->data_bytes);
    snprintf(c->path, sizeof c->path, "%s/sae_weights.safetensors", c->dir);
    if (config)
        checkpoint_file(c, "cfg.json", config, strlen(config));
}

void checkpoint_end(checkpoint *c)
{
    DIR *dir = opendir(c->dir);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            checkpoint_remove(c, entry->d_name);
    if (dir)
        closedir(dir);
    if (rmdir(c->dir))
        give_up(c->dir);
}

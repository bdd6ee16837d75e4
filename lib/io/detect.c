#include "io/detect.h"

#include <string.h>

static const char config_name[] = "cfg.json", weights_name[] = "sae_weights.safetensors";

const char *saei_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* folder[0 .. n) + "/" + name, or NULL without memory. */
static char *join(const saei_host *host, const char *folder, size_t n, const char *name)
{
    const size_t tail = strlen(name);
    const bool slash = n && folder[n - 1] != '/';
    char *path = saei_alloc(host, n + slash + tail + 1);
    if (!path)
        return NULL;
    memcpy(path, folder, n);
    if (slash)
        path[n] = '/';
    memcpy(path + n + slash, name, tail + 1);
    return path;
}

/* ---- formats that this version knows by sight only ---- */

typedef struct sight {
    const char *file; /* in the folder, or how a file's name ends */
    const char *format;
} sight;

/* In this order: a folder may hold the files of several. */
static const sight folders[] = {{"sae.safetensors", "a sparsify checkpoint"},
                                {"hyperparams.json", "a Llama Scope checkpoint"},
                                {"params.npz", "a Gemma Scope checkpoint"},
                                {"params.safetensors", "a Gemma Scope 2 checkpoint"},
                                {"ae.pt", "a dictionary_learning checkpoint"},
                                {"config.yaml", "a circuit-tracer transcoder"},
                                {"latest_ckpt.safetensors", "a temporal SAE checkpoint"},
                                {"sae_weights.dcp", "a llamascopium checkpoint"},
                                {"config.json", "a llamascopium or dictionary_learning checkpoint"}};
static const sight endings[] = {
    {".pt", "a torch file"}, {".pth", "a torch file"}, {".bin", "a torch file"}, {".npz", "an npz file"}, {".gguf", "a GGUF file"}};

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), tail = strlen(end);
    return n >= tail && strcmp(s + n - tail, end) == 0;
}

/* 1 when folder holds a file of that name, 0 when not, -1 without memory. */
static int holds(const saei_host *host, const char *folder, const char *name)
{
    char *path = join(host, folder, strlen(folder), name);
    if (!path)
        return -1;
    const int found = saei_path_kind(path) >= 0;
    saei_strfree(host, path);
    return found;
}

static sae_status no_memory(const char *path, sae_error *err)
{
    return saei_fail(err, SAE_E_NOMEM, "no memory for the path of %s", path);
}

/* Why a folder is no SAELens folder. */
static sae_status refuse_folder(const saei_host *host, const char *path, int config, int weights, sae_error *err)
{
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        const int found = holds(host, path, folders[i].file);
        if (found < 0)
            return no_memory(path, err);
        if (found)
            return saei_fail(err, SAE_E_UNSUPPORTED,
                             "a folder with %s is %s, which this version does not read (it reads SAELens folders): %s", folders[i].file,
                             folders[i].format, path);
    }
    if (config || weights)
        return saei_fail(err, SAE_E_IO, "the folder holds %s but no %s, a SAELens folder has both: %s", config ? config_name : weights_name,
                         config ? weights_name : config_name, path);
    return saei_fail(err, SAE_E_IO, "the folder holds neither %s nor %s, which a SAELens folder has: %s", config_name, weights_name, path);
}

static sae_status check_folder(const saei_host *host, const char *path, const saei_place *place, sae_error *err)
{
    const int config = saei_path_kind(place->config) >= 0, weights = saei_path_kind(place->weights);
    if (!config || weights < 0)
        return refuse_folder(host, path, config, weights >= 0, err);
    return weights == 0 ? SAE_OK : saei_fail(err, SAE_E_IO, "%s is a folder, it must be a file: %s", weights_name, path);
}

static sae_status check_file(const char *path, sae_error *err)
{
    const char *name = saei_base_name(path);
    if (ends_with(name, ".safetensors"))
        return SAE_OK;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (ends_with(name, endings[i].file))
            return saei_fail(err, SAE_E_UNSUPPORTED, "%s is what this version does not read (it reads SAELens folders): %s",
                             endings[i].format, path);
    if (strcmp(name, config_name) == 0)
        return saei_fail(err, SAE_E_UNSUPPORTED, "%s alone is no checkpoint, open the folder it lies in: %s", config_name, path);
    return saei_fail(err, SAE_E_UNSUPPORTED, "this is neither a folder nor a .safetensors file: %s", path);
}

/* The system's own words for a path where nothing is. */
static sae_status nothing_there(const saei_host *host, const char *path, sae_error *err)
{
    saei_file file;
    const sae_status status = saei_file_open(&file, host, path, false, err);
    if (status)
        return status;
    saei_file_close(&file, host);
    return saei_fail(err, SAE_E_IO, "%s appeared while it was looked for: try again", path);
}

sae_status saei_place_find(saei_place *out, const saei_host *host, const char *path, sae_error *err)
{
    const int kind = saei_path_kind(path);
    const size_t folder = kind == 1 ? strlen(path) : (size_t)(saei_base_name(path) - path);
    sae_status status;
    *out = (saei_place){.bare = kind == 0};
    if (kind < 0)
        return nothing_there(host, path, err);
    out->config = join(host, path, folder, config_name);
    out->weights = kind == 1 ? join(host, path, folder, weights_name) : saei_strdup(host, path);
    if (!out->config || !out->weights)
        status = no_memory(path, err);
    else
        status = kind == 1 ? check_folder(host, path, out, err) : check_file(path, err);
    if (status)
        saei_place_free(out, host);
    return status;
}

void saei_place_free(saei_place *place, const saei_host *host)
{
    saei_strfree(host, place->config);
    saei_strfree(host, place->weights);
    *place = (saei_place){0};
}

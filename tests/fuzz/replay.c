/* Calls a fuzz target with every file of the folders given, and with seeded mutations of it: what the plain suite keeps of fuzzing.
 * Usage: PROGRAM FOLDER... */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

enum { MUTATIONS = 300, MOST = 1 << 20 };

static uint64_t state = 1;

static uint32_t pick(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

/* A copy in a block of its exact size, so that a sanitizer sees a read past its end. */
static void run(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + !size);
    fuzz_need(copy != NULL, "there is memory");
    if (size)
        memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static void mutate(const uint8_t *data, size_t size)
{
    static const uint8_t edges[] = {0, 1, 9, '"', '[', '{', '}', '-', '0', '9', 127, 128, 254, 255};
    uint8_t *copy = malloc(size);
    fuzz_need(copy != NULL, "there is memory");
    memcpy(copy, data, size);
    for (uint32_t n = pick(4) + 1; n; n--) {
        uint8_t *at = copy + pick((uint32_t)size);
        switch (pick(4)) {
        case 0:
            *at ^= (uint8_t)(1u << pick(8));
            break;
        case 1:
            *at = edges[pick(sizeof edges)];
            break;
        case 2:
            *at = (uint8_t)pick(256);
            break;
        default:
            size = pick(8) ? size : (size_t)(at - copy) + 1;
            break;
        }
    }
    run(copy, size);
    free(copy);
}

static bool replay(const char *path)
{
    static uint8_t data[MOST];
    FILE *file = fopen(path, "rb");
    if (!file)
        return false;
    const size_t size = fread(data, 1, sizeof data, file);
    fclose(file);
    run(data, size);
    for (int i = 0; size && i < MUTATIONS; i++)
        mutate(data, size);
    return true;
}

int main(int argc, char **argv)
{
    int passed = 0, failed = 0;
    for (int i = 1; i < argc; i++) {
        struct dirent **names;
        const int n = scandir(argv[i], &names, NULL, alphasort);
        for (int j = 0; j < n; j++) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", argv[i], names[j]->d_name);
            if (names[j]->d_name[0] != '.')
                replay(path) ? passed++ : failed++;
            free(names[j]);
        }
        if (n >= 0)
            free(names);
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed || !passed;
}

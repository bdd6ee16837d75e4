/* Choosing the next token. */
#include "engine.h"

#include <math.h>

/* splitmix64 (Steele, Lea, Flood 2014): spreads a seed over the state, so that neighbouring seeds have unrelated streams. */
static uint64_t spread(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t turn(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

/* xoshiro256** (Blackman, Vigna 2018), as a number in [0, 1) with 53 bits. */
static double uniform(uint64_t s[4])
{
    const uint64_t out = turn(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = turn(s[3], 45);
    return (double)(out >> 11) * 0x1p-53;
}

void engine_sampler_init(engine_sampler *s, float temperature, int32_t top_k, uint64_t seed)
{
    *s = (engine_sampler){.temperature = temperature, .top_k = top_k};
    for (int i = 0; i < 4; i++)
        s->state[i] = spread(&seed);
}

static int32_t largest(const float *logits, int32_t n)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++)
        if (isfinite(logits[i]) && (best < 0 || logits[i] > logits[best]))
            best = i;
    return best;
}

/* Is token a a worse choice than b? */
static bool worse(const float *logits, int32_t a, int32_t b)
{
    return logits[a] < logits[b] || (logits[a] == logits[b] && a > b);
}

/* Moves heap[i] down to its place in a heap whose root is the worst token. */
static void sink(int32_t *heap, int32_t n, int32_t i, const float *logits)
{
    for (int32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && worse(logits, heap[child + 1], heap[child]))
            child++;
        if (!worse(logits, heap[child], heap[i]))
            return;
        const int32_t t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
    }
}

/* Finite logits that may be drawn: all, or the k best. Gives their number. */
static int32_t candidates(int32_t *out, const float *logits, int32_t n_vocab, int32_t k)
{
    int32_t n = 0;
    for (int32_t i = 0; i < n_vocab; i++) {
        if (!isfinite(logits[i]))
            continue;
        if (n < k) {
            out[n++] = i;
            for (int32_t j = n / 2 - 1; n == k && j >= 0; j--)
                sink(out, n, j, logits);
        } else if (worse(logits, out[0], i)) {
            out[0] = i;
            sink(out, n, 0, logits);
        }
    }
    return n;
}

int32_t engine_sample(engine_sampler *s, const float *logits, int32_t n_vocab, int32_t *scratch)
{
    const int32_t best = largest(logits, n_vocab);
    if (best < 0 || !(s->temperature > 0.0f))
        return best;
    const int32_t k = s->top_k > 0 && s->top_k < n_vocab ? s->top_k : n_vocab;
    const int32_t n = candidates(scratch, logits, n_vocab, k);
    double sum = 0.0;
    for (int32_t i = 0; i < n; i++)
        sum += exp(((double)logits[scratch[i]] - (double)logits[best]) / (double)s->temperature);
    double left = uniform(s->state) * sum;
    for (int32_t i = 0; i < n; i++) {
        left -= exp(((double)logits[scratch[i]] - (double)logits[best]) / (double)s->temperature);
        if (left < 0.0)
            return scratch[i];
    }
    return best; /* rounding left a crumb */
}

double engine_logprob(const float *logits, int32_t n_vocab, int32_t token)
{
    double most = -INFINITY, sum = 0.0;
    for (int32_t i = 0; i < n_vocab; i++)
        most = (double)logits[i] > most ? (double)logits[i] : most;
    for (int32_t i = 0; i < n_vocab; i++)
        sum += exp((double)logits[i] - most);
    return (double)logits[token] - most - log(sum);
}

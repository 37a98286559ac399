#include "grpo_accel/base/random.h"

#include <math.h>
#include <string.h>

enum { ROUNDS = 10 };

static void philox_block(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
    uint32_t k[2] = {key[0], key[1]};
    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t p0 = UINT64_C(0xD2511F53) * c[0];
        const uint64_t p1 = UINT64_C(0xCD9E8D57) * c[2];
        const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c[1] ^ k[0];
        const uint32_t n2 = (uint32_t)(p0 >> 32) ^ c[3] ^ k[1];
        c[1] = (uint32_t)p1;
        c[3] = (uint32_t)p0;
        c[0] = n0;
        c[2] = n2;
        k[0] += UINT32_C(0x9E3779B9);
        k[1] += UINT32_C(0xBB67AE85);
    }
    memcpy(out, c, sizeof c);
}

ga_random ga_random_make(uint64_t seed, uint64_t batch, ga_random_stream stream) {
    ga_random random = {
        .key = {(uint32_t)seed, (uint32_t)(seed >> 32) ^ ((uint32_t)stream << 24)},
        .counter = {0, 0, (uint32_t)batch, (uint32_t)(batch >> 32)},
        .buffered_count = 0,
    };
    return random;
}

uint32_t ga_random_u32(ga_random *random) {
    if (random->buffered_count == 0) {
        philox_block(random->counter, random->key, random->buffer);
        random->buffered_count = 4;
        if (++random->counter[0] == 0) {
            ++random->counter[1];
        }
    }
    return random->buffer[4 - random->buffered_count--];
}

double ga_random_uniform(ga_random *random) {
    const uint64_t high = ga_random_u32(random) >> 5;
    const uint64_t low = ga_random_u32(random) >> 6;
    return (double)((high << 26) | low) * (1.0 / 9007199254740992.0);
}

uint32_t ga_random_below(ga_random *random, uint32_t bound) {
    if (bound == 0) {
        return 0;
    }
    const uint32_t threshold = (0u - bound) % bound;
    for (;;) {
        const uint64_t product = (uint64_t)ga_random_u32(random) * bound;
        if ((uint32_t)product >= threshold) {
            return (uint32_t)(product >> 32);
        }
    }
}

double ga_random_normal(ga_random *random) {
    const double u = 1.0 - ga_random_uniform(random);
    const double v = ga_random_uniform(random);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

void ga_random_shuffle(ga_random *random, int32_t *indices, uint32_t count) {
    for (uint32_t i = count; i > 1; i--) {
        const uint32_t j = ga_random_below(random, i);
        const int32_t other = indices[j];
        indices[j] = indices[i - 1];
        indices[i - 1] = other;
    }
}

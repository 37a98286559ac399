/*
 * Counter-based random numbers keyed by (seed, batch, stream): the same on every rank, whatever was drawn
 * before, and never the host's generators.
 *
 * Philox-4x32-10, Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 */
#ifndef GA_BASE_RANDOM_H
#define GA_BASE_RANDOM_H

#include <stdint.h>

/* Who draws: each purpose has its own stream, so that a new draw in one never shifts another. */
typedef enum ga_random_stream {
    GA_STREAM_AUDIT = 1,    /* is this batch an audit batch? */
    GA_STREAM_ROUNDING = 2, /* dependent rounding of inclusion probabilities */
    GA_STREAM_POLICY = 3,   /* policy random, ties */
    GA_STREAM_WEIGHTS = 4,  /* initial weights of a network */
    GA_STREAM_TRAIN = 5,    /* order of training groups */
    GA_STREAM_BOOTSTRAP = 6,
    GA_STREAM_DEAL = 7, /* dealing table rows to ranks */
    GA_STREAM_TEST = 8,
    GA_STREAM_EXPLORE = 9, /* is this batch observed while nothing is pruned? */
    GA_STREAM_WORLD = 10   /* synthetic rewards and scores */
} ga_random_stream;

typedef struct ga_random {
    uint32_t key[2];
    uint32_t counter[4];
    uint32_t buffer[4];
    uint32_t buffered_count;
} ga_random;

/* A generator at its beginning. Plain data: copy it to fork it. */
ga_random ga_random_make(uint64_t seed, uint64_t batch, ga_random_stream stream);

/* Uniform 32 bits. */
uint32_t ga_random_u32(ga_random *random);

/* Uniform in [0, 1), 53 bits. */
double ga_random_uniform(ga_random *random);

/* Uniform in 0 … bound-1 without bias; 0 if bound is 0. */
uint32_t ga_random_below(ga_random *random, uint32_t bound);

/* Standard normal (Box-Muller). */
double ga_random_normal(ga_random *random);

/* Shuffles count indices in place (Fisher-Yates). */
void ga_random_shuffle(ga_random *random, int32_t *indices, uint32_t count);

#endif

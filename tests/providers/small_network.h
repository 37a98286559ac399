/* A small convolutional network over a table, to train it on two providers at a time. */
#ifndef GA_TESTS_PROVIDERS_SMALL_NETWORK_H
#define GA_TESTS_PROVIDERS_SMALL_NETWORK_H

#include "tests/providers/pair.h"

/* convolution 3 → width (stride 2), group norm, SiLU, convolution width → width, mean, linear → 1, squared
 * error; AdamW over all parameters. */
typedef struct small_network {
    int32_t rows, side, width;
} small_network;

size_t small_network_parameters(const small_network *network);

/*
 * `steps` steps from `parameters` (overwritten), inputs [rows, 3, side, side], targets [rows];
 * predictions_out [rows] of the last step. One job of the table. seconds_out (NULL allowed): of the steps
 * alone.
 */
void small_network_train(const ga_compute *compute, const small_network *network, int64_t steps,
    const float *inputs, const float *targets, float *parameters, float *predictions_out,
    double *seconds_out);

#endif

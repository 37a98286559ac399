/* Seconds of each operation on each provider, side by side. */
#ifndef GA_TESTS_PROVIDERS_BENCH_H
#define GA_TESTS_PROVIDERS_BENCH_H

/* Prints a Markdown table: operation, microseconds a call of native and torch, at a probe's shapes, and the
 * rows a second of a training step. */
void bench_providers(void);

#endif

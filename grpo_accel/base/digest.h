/* Checksums of plans, configurations and segments: xxHash, not for secrets. The same on every machine. */
#ifndef GA_BASE_DIGEST_H
#define GA_BASE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

/* XXH64 with seed 0, so that any xxHash tool can repeat it. */
uint64_t ga_digest64(const void *data, size_t bytes);

/* XXH3-128 in canonical (big endian) bytes: prompt hashes. */
void ga_digest128(const void *data, size_t bytes, uint8_t digest_out[16]);

/* Order-dependent combination of two digests. */
uint64_t ga_digest_join(uint64_t a, uint64_t b);

#endif

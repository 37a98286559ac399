#include "grpo_accel/base/digest.h"

#include <string.h>
#include <xxhash.h>

uint64_t ga_digest64(const void *data, size_t bytes) {
    return XXH64(data, bytes, 0);
}

void ga_digest128(const void *data, size_t bytes, uint8_t digest_out[16]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, bytes));
    memcpy(digest_out, canonical.digest, 16);
}

uint64_t ga_digest_join(uint64_t a, uint64_t b) {
    unsigned char bytes[16];
    for (int i = 0; i < 8; i++) {
        bytes[i] = (unsigned char)(a >> (8 * i));
        bytes[8 + i] = (unsigned char)(b >> (8 * i));
    }
    return XXH64(bytes, sizeof bytes, 0);
}

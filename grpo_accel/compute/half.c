#include "grpo_accel/compute/half.h"

#include <string.h>

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float ga_half_to_float(ga_half value) {
    const uint32_t sign = (uint32_t)(value & 0x8000u) << 16;
    const uint32_t exponent = (value >> 10) & 0x1fu;
    const uint32_t mantissa = value & 0x3ffu;
    if (exponent == 0x1fu) {
        return float_of(sign | 0x7f800000u | (mantissa << 13));
    }
    if (exponent != 0) {
        return float_of(sign | ((exponent + 112u) << 23) | (mantissa << 13));
    }
    /* subnormal: mantissa · 2⁻²⁴, exact in fp32 */
    const float magnitude = (float)mantissa * 0x1p-24f;
    return float_of(sign | bits_of(magnitude));
}

ga_half ga_half_from_float(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return (ga_half)(sign | 0x7e00u);
    }
    if (magnitude >= 0x477ff000u) { /* rounds to 65536 or more */
        return (ga_half)(sign | 0x7c00u);
    }
    if (magnitude < 0x38800000u) { /* below 2⁻¹⁴: let fp32 arithmetic round to a multiple of 2⁻²⁴ */
        const float shifted = float_of(magnitude) + 0.5f;
        return (ga_half)(sign | (bits_of(shifted) - 0x3f000000u));
    }
    const uint32_t odd = (magnitude >> 13) & 1u;
    const uint32_t rounded = magnitude + 0xfffu + odd;
    return (ga_half)(sign | ((rounded - 0x38000000u) >> 13));
}

float ga_bfloat_to_float(uint16_t value) {
    return float_of((uint32_t)value << 16);
}

uint16_t ga_bfloat_from_float(float value) {
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((bits >> 16) | 0x40u);
    }
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

void ga_half_to_float_array(const ga_half *restrict source, float *restrict target, size_t count) {
    for (size_t i = 0; i < count; i++) {
        target[i] = ga_half_to_float(source[i]);
    }
}

void ga_half_from_float_array(const float *restrict source, ga_half *restrict target, size_t count) {
    for (size_t i = 0; i < count; i++) {
        target[i] = ga_half_from_float(source[i]);
    }
}

#include "grpo_accel/config/nearest.h"

#include <ctype.h>
#include <stdint.h>
#include <string.h>

#define ROW_LENGTH (GA_NEAREST_LENGTH_MAX + 1)

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static int same_letter(char a, char b) {
    return tolower((unsigned char)a) == tolower((unsigned char)b);
}

size_t ga_nearest_distance(const char *a, const char *b) {
    const size_t a_length = strlen(a), b_length = strlen(b);
    if (a_length > GA_NEAREST_LENGTH_MAX || b_length > GA_NEAREST_LENGTH_MAX) {
        return SIZE_MAX;
    }
    /* rows[(i+1) % 3] is the distance of a's first i+1 letters to each beginning of b. */
    size_t rows[3][ROW_LENGTH];
    for (size_t j = 0; j <= b_length; j++) {
        rows[0][j] = j;
    }
    for (size_t i = 1; i <= a_length; i++) {
        size_t *row = rows[i % 3];
        const size_t *above = rows[(i - 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            const size_t replaced = above[j - 1] + (same_letter(a[i - 1], b[j - 1]) ? 0 : 1);
            row[j] = smaller(replaced, 1 + smaller(above[j], row[j - 1]));
            if (i > 1 && j > 1 && same_letter(a[i - 1], b[j - 2]) && same_letter(a[i - 2], b[j - 1])) {
                row[j] = smaller(row[j], rows[(i - 2) % 3][j - 2] + 1);
            }
        }
    }
    return rows[a_length % 3][b_length];
}

const char *ga_nearest(const char *word, const char *const *candidates, size_t count) {
    const char *nearest = NULL;
    size_t nearest_distance = 2 + strlen(word) / 5;
    for (size_t i = 0; i < count; i++) {
        const size_t distance = ga_nearest_distance(word, candidates[i]);
        if (distance < nearest_distance) {
            nearest = candidates[i];
            nearest_distance = distance;
        }
    }
    return nearest;
}

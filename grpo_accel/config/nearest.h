/* The closest known word to a misspelt one: "did you mean". */
#ifndef GA_CONFIG_NEAREST_H
#define GA_CONFIG_NEAREST_H

#include <stddef.h>

/* Longer words are not compared, so that the cost is bounded. */
#define GA_NEAREST_LENGTH_MAX 64

/*
 * Insertions, deletions, substitutions and swaps of neighbours that turn a into b (optimal string alignment,
 * Damerau 1964); SIZE_MAX if one is longer than GA_NEAREST_LENGTH_MAX. Letters in either case are equal.
 */
size_t ga_nearest_distance(const char *a, const char *b);

/* The one of candidates[0 … count-1] within 1 + a fifth of the word's length; the first of equals; NULL if
 * none is near. */
const char *ga_nearest(const char *word, const char *const *candidates, size_t count);

#endif

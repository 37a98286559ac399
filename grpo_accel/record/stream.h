/*
 * Features and finals of a record's rows, fetched from the segments when they are needed.
 *
 * A record may be larger than memory; what is held of it here is bounded. Blocks of neighbouring rows are
 * read and the latest are kept, so rows asked for in the table's order, or in any order inside a window of
 * ga_record_stream_window rows, cost one read each.
 */
#ifndef GA_RECORD_STREAM_H
#define GA_RECORD_STREAM_H

#include <stddef.h>

#include "grpo_accel/record/table.h"

/* Owned by who opens it; one thread at a time. */
typedef struct ga_record_stream ga_record_stream;

typedef struct ga_record_stream_options {
    const ga_feature_schema
        *schema;               /* inputs wanted, of the shapes that the table's layout has; NULL: finals */
    const int32_t *candidates; /* [candidate_count] of the table's layout, wanted; for features */
    int32_t candidate_count;
    size_t cache_bytes; /* 0: 64 MB */
} ga_record_stream_options;

/*
 * The table must have been read from files, and outlive the stream. With schema NULL the stream gives the
 * finals of table->layout. Not collective. Errors: GA_ERR_ARGUMENT (an input or final that the table lacks),
 * GA_ERR_MEMORY.
 */
ga_status ga_record_stream_open(const ga_record_table *table, const ga_record_stream_options *options,
    ga_record_stream **stream_out, ga_error *error);

/* Bytes of a state: the features of a row at one candidate, or a final. */
size_t ga_record_stream_state_bytes(const ga_record_stream *stream);

/* Rows that the cache holds twice over. */
int64_t ga_record_stream_window(const ga_record_stream *stream);

/*
 * State `candidates[i]` (place in options->candidates; NULL: 0) of row rows[i] of the table, one after the
 * other: features as the schema says, NaN where the file lacks them. Errors: GA_ERR_FILE (a segment is gone
 * or damaged since), GA_ERR_MISSING; states_out is void then.
 */
ga_status ga_record_stream_read(ga_record_stream *stream, const int64_t *rows, const int32_t *candidates,
    int64_t count, void *states_out, ga_error *error);

/* Frees and sets *stream to NULL; NULL is allowed. */
void ga_record_stream_close(ga_record_stream **stream);

#endif

/*
 * The two collectives of the flow: rows at the decision of a batch, outcomes at the end of an update.
 *
 * Each is one gather of header and rows. Headers are compared before any row is used, so ranks that run
 * another configuration, batch or probe get a sentence and not a hang or a plan of their own. All ranks see
 * the same bytes, so those that get a verdict on the headers get the same one.
 *
 * A rank that was late can succeed where its peers have given up and kept everything. It finds out in the
 * exchange of the update, which carries what each rank really kept; advantages are computed from that alone.
 * In every case each rank issues every exchange exactly once, and ga_world_skip where it can't.
 */
#ifndef GA_DIST_EXCHANGE_H
#define GA_DIST_EXCHANGE_H

#include <stdbool.h>
#include <stdint.h>

#include "dist/world.h"
#include "grpo_accel/base/flow.h"

typedef struct ga_exchange_header {
    uint64_t batch;         /* must be the same on all ranks, as the next three, and the stage */
    uint64_t fingerprint;   /* of the configuration */
    uint32_t probe_version; /* that made the predictions */
    uint32_t rows;          /* of this rank in the batch; 0 is allowed */
    uint32_t flags;         /* caller's bits, per rank: see flags_any and flags_all */
    uint32_t stage;         /* which decision of the batch, from 0 */
} ga_exchange_header;

/* Of a caller's own figures and counts in the header of an update. */
#define GA_UPDATE_FIGURES 8
#define GA_UPDATE_COUNTS 88
#define GA_UPDATE_NOTE_BYTES 56

typedef struct ga_update_header {
    uint64_t update;      /* must be the same on all ranks, as the next three */
    uint64_t fingerprint; /* of the configuration */
    uint32_t batches;     /* in this update */
    uint32_t rows;        /* of this rank in the update; 0 is allowed */
    uint64_t checksum;    /* of the caller's state, reported and not enforced: after a late batch plans
                             may differ */
    uint32_t probe_version_ready;      /* newest version that this rank could swap in */
    uint32_t flags;                    /* caller's bits, per rank */
    float figures[GA_UPDATE_FIGURES];  /* caller's, e.g. seconds; NaN: not known here. See figure_max */
    uint16_t counts[GA_UPDATE_COUNTS]; /* caller's, e.g. of histograms. See count_sum */
    unsigned char note[GA_UPDATE_NOTE_BYTES]; /* caller's; rank 0's is handed to all. See first_note */
} ga_update_header;                           /* 304 bytes a rank and update */

/* Written in every case, also beside an error. */
typedef struct ga_exchange_report {
    ga_late late;                /* GA_ERR_LATE: who is missing */
    int32_t differing_rank;      /* GA_ERR_MISMATCH, GA_ERR_DATA: whose message is wrong; else -1 */
    const char *differing_field; /* "batch", "fingerprint", "probe_version", "update", "batches", "rows", ...;
                                    static storage; else NULL */
    double seconds;              /* spent in the call, waiting included */
    uint64_t digest;             /* of all headers and rows, in rank order: the same on all ranks */
    uint32_t flags_any;          /* bits that some rank has set */
    uint32_t flags_all;          /* bits that all ranks have set */
    /* update only */
    uint32_t probe_version_ready; /* the newest that all ranks have */
    bool checksums_agree;
    int32_t checksum_rank; /* the first rank whose checksum is not that of most; -1: all agree */
    float figure_max[GA_UPDATE_FIGURES];  /* the largest that some rank knows: the slowest rank sets the pace;
                                             NaN: none knows it */
    uint64_t count_sum[GA_UPDATE_COUNTS]; /* over all ranks */
    unsigned char first_note[GA_UPDATE_NOTE_BYTES]; /* rank 0's */
} ga_exchange_report;

/*
 * own_rows: own->rows candidates of this rank, each with `rank` of this rank and 0 ≤ index < rows.
 * all_rows_out: size · rows candidates in rank order, written on success only.
 * Collective. GA_ERR_LATE; GA_ERR_MISMATCH; GA_ERR_DATA: a rank's rows name other ranks or rows than its own;
 * GA_ERR_ARGUMENT, GA_ERR_MEMORY; GA_ERR_WORLD. After each of them nothing is pruned in this batch.
 */
ga_status ga_exchange_batch(ga_world *world, const ga_exchange_header *own, const ga_candidate *own_rows,
    double deadline_seconds, ga_candidate *all_rows_out, ga_exchange_report *report_out, ga_error *error);

/* The same for the outcomes of an update; its deadline covers the rewards of the slowest rank. */
ga_status ga_exchange_update(ga_world *world, const ga_update_header *own, const ga_outcome *own_rows,
    double deadline_seconds, ga_outcome *all_rows_out, ga_exchange_report *report_out, ga_error *error);

#endif

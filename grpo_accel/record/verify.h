/* Does a record have gaps or damage? Reads everything once, changes nothing. */
#ifndef GA_RECORD_VERIFY_H
#define GA_RECORD_VERIFY_H

#include <stdint.h>

#include "grpo_accel/base/status.h"

typedef enum ga_finding_severity {
    GA_FINDING_NOTE = 0,  /* nothing is lost: what a killed writer leaves behind */
    GA_FINDING_GAP = 1,   /* rows or segments that should be there are not */
    GA_FINDING_DAMAGE = 2 /* what is there is not what was written */
} ga_finding_severity;

typedef struct ga_finding {
    ga_finding_severity severity;
    char file[256]; /* end of the path; of a folder where no file is to blame */
    char message[320];
} ga_finding;

/* Owned; freed with ga_record_report_free. */
typedef struct ga_record_report {
    ga_finding *findings; /* in the order of folders and files */
    int64_t count;
    int64_t counts[3]; /* by severity */
    int64_t ranks;
    int64_t segments; /* that could be read */
    int64_t rows;
    int64_t batches;
    int64_t bytes;
} ga_record_report;

/*
 * Looks at everything below `path` (as ga_record_read takes it): manifest against files, checksums, every
 * dataset, sequences, row ids unique in the run, rows of each batch against what the writer counted, batches
 * of each rank against the other ranks'. Findings are no error: GA_OK with counts. Not collective. Any
 * thread. Errors: GA_ERR_FILE (nothing there), GA_ERR_MEMORY, GA_ERR_MISSING.
 */
ga_status ga_record_verify(const char *path, ga_record_report *report_out, ga_error *error);
void ga_record_report_free(ga_record_report *report);

/* "note", "gap", "damage" */
const char *ga_finding_severity_name(ga_finding_severity severity);

#endif

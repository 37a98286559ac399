/*
 * The only writer to disk of this room: a file is there completely, or it is not there.
 *
 * open(name.PID.tmp, O_EXCL|O_NOFOLLOW) → write all → fsync → rename → fsync(folder). Files 0640, folders
 * 0750, less the umask. A publisher belongs to one thread at a time. Not collective.
 */
#ifndef GA_RECORD_PUBLISH_H
#define GA_RECORD_PUBLISH_H

#include "grpo_accel/base/status.h"

typedef struct ga_publisher ga_publisher;

#define GA_SEGMENT_NAME_BYTES 32

/* "segment-000042.h5" */
void ga_segment_name(int64_t sequence, char name_out[GA_SEGMENT_NAME_BYTES]);

/* The number in such a name; −1 if it is none. */
int64_t ga_segment_sequence(const char *name);

/*
 * Makes the folder (and those above it) if it is not there, takes it for this process alone, removes *.tmp of
 * processes that are dead, and finds the number after the highest segment. Errors: GA_ERR_IO, with the folder
 * and the reason; also where another process of this machine writes there.
 */
ga_status ga_publisher_open(const char *folder, ga_publisher **publisher_out, ga_error *error);

/* Sets *publisher to NULL. NULL is allowed. */
void ga_publisher_close(ga_publisher **publisher);

/* What the next segment will be numbered at least. */
int64_t ga_publisher_next(const ga_publisher *publisher);

/*
 * Publishes bytes as the next segment; an existing file is never replaced. On failure nothing is published,
 * and the number is used by the next attempt. Errors: GA_ERR_IO, with errno's words.
 */
ga_status ga_publish_segment(
    ga_publisher *publisher, const void *bytes, size_t size, int64_t *sequence_out, ga_error *error);

/*
 * Adds a line to a file of lines with one write, and fsyncs it; `line` has no line end. If the file does not
 * end with one (a torn write), the new line starts with one. Errors: GA_ERR_IO.
 */
ga_status ga_publish_line(ga_publisher *publisher, const char *name, const char *line, ga_error *error);

#endif

/* evaluate --predictions: what the probe says of each row, for other people's statistics. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "grpo_accel/command/command.h"
#include "grpo_accel/command/evaluate.h"

static void write_rows(const ga_judged *judged, const ga_lessons *lessons, FILE *file) {
    const ga_record_table *table = ga_lessons_table(lessons);
    const int32_t *steps = NULL;
    const int32_t count = ga_lessons_steps(lessons, &steps);
    const int64_t per_row = count > 0 ? count : 1;
    (void)fputs("row_id,group,update,step,prediction,variance,reward\n", file);
    for (int64_t i = 0; i < judged->rows; i++) {
        const int64_t row = judged->row[i] / per_row;
        const int32_t step = count > 0 ? steps[judged->row[i] % per_row] : 0;
        (void)fprintf(file, "%" PRIu64 ",%" PRIu64 ",%" PRIu32 ",%" PRId32 ",%.9g,%.9g,%.9g\n",
            table->row_id[row], judged->group[i], judged->update[i], step, judged->prediction[i],
            judged->variance[i], judged->target[i]);
    }
}

ga_status ga_evaluated_write_rows(
    const char *path, const ga_judged *judged, const ga_lessons *lessons, ga_error *error) {
    FILE *file = fopen(path, "we");
    if (file == NULL) {
        return GA_FAIL(error, GA_ERR_IO, "%.200s: can't write the predictions: %s", path, strerror(errno));
    }
    write_rows(judged, lessons, file);
    const bool written = fflush(file) == 0 && ferror(file) == 0;
    if (fclose(file) != 0 || !written) {
        return GA_FAIL(error, GA_ERR_IO, "%.200s: can't write the predictions: %s", path, strerror(errno));
    }
    return GA_OK;
}

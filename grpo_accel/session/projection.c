#include "grpo_accel/session/projection.h"

#include "grpo_accel/base/digest.h"
#include "grpo_accel/feature/feature.h"
#include "grpo_accel/record/row.h"

uint32_t ga_projection_inputs(const ga_feature_schema *schema) {
    uint32_t bits = 0;
    for (int32_t i = 0; i < schema->input_count; i++) {
        bits |= GA_INPUT_BIT(schema->inputs[i].input);
    }
    return bits;
}

/* Options that give an input this shape; statistics of the attention among them. */
static void explain_input(const ga_input_shape *shape, ga_feature_options *options) {
    switch (shape->input) {
    case GA_INPUT_ATTENTION:
        options->attention_blocks = shape->channels / ga_attention_count(options->attention_statistics);
        break;
    case GA_INPUT_X0: options->latent_channels = shape->channels; break;
    case GA_INPUT_HIDDEN: options->hidden_values = shape->channels; break;
    case GA_INPUT_PROMPT: options->prompt_values = shape->channels; break;
    case GA_INPUT_PREVIEW: options->preview_scores = shape->channels; break;
    case GA_INPUT_LOOKAHEAD: options->lookahead_scores = shape->channels; break;
    case GA_INPUT_DISTILLED: options->distilled_scores = shape->channels; break;
    case GA_INPUT_CFG:
    case GA_INPUT_COUNT: break;
    }
}

static ga_feature_options explain(const ga_feature_schema *schema, uint32_t statistics) {
    ga_feature_options options = {
        .inputs = ga_projection_inputs(schema), .map_size = 1, .attention_statistics = statistics};
    for (int32_t i = 0; i < schema->input_count; i++) {
        const ga_input_shape *shape = &schema->inputs[i];
        explain_input(shape, &options);
        if (shape->height > 1 || shape->width > 1) {
            options.token_height = options.latent_height = shape->height;
            options.token_width = options.latent_width = shape->width;
            options.map_size = shape->height > shape->width ? shape->height : shape->width;
        }
    }
    return options;
}

/* Options under which a run would have the schema `full`, found by trying what its layout leaves open. */
static bool find_options(const ga_feature_schema *full, ga_feature_options *options_out) {
    for (uint32_t statistics = 1; statistics < 1u << GA_ATTENTION_STATISTIC_COUNT; statistics++) {
        const ga_feature_options options = explain(full, statistics);
        ga_feature_schema made;
        if (ga_feature_schema_make(&options, &made, NULL) == GA_OK && made.id == full->id) {
            *options_out = options;
            return true;
        }
    }
    return false;
}

static ga_status check_inputs(uint32_t have, uint32_t wanted, ga_error *error) {
    for (int i = 0; i < GA_INPUT_COUNT; i++) {
        if ((wanted & ~have & GA_INPUT_BIT(i)) != 0) {
            return GA_FAIL(
                error, GA_ERR_DATA, "the record has no input %s", ga_record_input_name((ga_input)i));
        }
    }
    return wanted != 0 ? GA_OK : GA_FAIL(error, GA_ERR_DATA, "no inputs are asked for");
}

ga_status ga_projection_make(
    const ga_feature_schema *full, uint32_t inputs, ga_feature_schema *part_out, ga_error *error) {
    GA_TRY(check_inputs(ga_projection_inputs(full), inputs, error));
    ga_feature_schema part = {.id = full->id};
    for (int32_t i = 0; i < full->input_count; i++) {
        ga_input_shape shape = full->inputs[i];
        if ((inputs & GA_INPUT_BIT(shape.input)) != 0) {
            shape.offset = part.values_per_row;
            part.values_per_row += shape.channels * shape.height * shape.width;
            part.inputs[part.input_count++] = shape;
        }
    }
    ga_feature_options options;
    ga_feature_schema made;
    if (part.input_count == full->input_count) {
        part.id = full->id;
    } else if (find_options(full, &options)) {
        options.inputs = inputs;
        GA_TRY(ga_feature_schema_make(&options, &made, error));
        part.id = made.id;
    } else {
        part.id = ga_digest_join(full->id, inputs);
    }
    *part_out = part;
    return GA_OK;
}

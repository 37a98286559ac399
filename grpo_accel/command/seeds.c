/* select-seeds: the best of several seeds, and the others stopped early. Pipelines are Python, so is the
 * rest. */
#include "grpo_accel/command/become.h"

ga_exit ga_command_select_seeds(const ga_call *call) {
    const ga_arguments *arguments = &call->arguments;
    if (ga_arguments_value(arguments, "model") == NULL || ga_arguments_value(arguments, "out") == NULL) {
        return ga_command_refuse(
            call, GA_ERR_ARGUMENT, "select-seeds: --model FOLDER and --out FOLDER are needed");
    }
    if (!ga_arguments_has(arguments, "prompt") && !ga_arguments_has(arguments, "prompts")) {
        return ga_command_refuse(
            call, GA_ERR_ARGUMENT, "select-seeds: --prompt TEXT or --prompts FILE is needed");
    }
    return ga_become_python(call, "grpo_accel.seed_command");
}

/* optimize-prompt: other wordings of a prompt, judged early. Pipelines and rewriters are Python, so is the
 * rest.
 */
#include "grpo_accel/command/become.h"

ga_exit ga_command_optimize_prompt(const ga_call *call) {
    const ga_arguments *arguments = &call->arguments;
    if (ga_arguments_value(arguments, "model") == NULL || ga_arguments_value(arguments, "out") == NULL ||
        ga_arguments_value(arguments, "rewriter") == NULL) {
        return ga_command_refuse(
            call, GA_ERR_ARGUMENT, "optimize-prompt: --model, --rewriter and --out are needed");
    }
    const bool one =
        ga_arguments_has(arguments, "prompt") && ga_arguments_value(arguments, "threshold") != NULL;
    if (!one && !ga_arguments_has(arguments, "json-lines")) {
        return ga_command_refuse(call, GA_ERR_ARGUMENT,
            "optimize-prompt: --prompt TEXT and --threshold V are needed, or --json-lines");
    }
    return ga_become_python(call, "grpo_accel.prompts");
}

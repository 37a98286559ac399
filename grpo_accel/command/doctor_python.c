/* What the interpreter of `run` says of itself: doctor's other half, grpo_accel.doctor, runs there. */
#include "grpo_accel/command/doctor.h"
#include "grpo_accel/command/python.h"

#define PYTHON_SECONDS 120.0

/* Runs grpo_accel.doctor without the package's own imports, which a bare interpreter can't satisfy: what is
 * missing is just what it is to tell. */
static const char begin[] =
    "import importlib.util, runpy, sys, types\n"
    "found = importlib.util.find_spec('grpo_accel')\n"
    "found or sys.exit('the package grpo_accel is not installed for ' + sys.executable)\n"
    "package = sys.modules['grpo_accel'] = types.ModuleType('grpo_accel')\n"
    "package.__path__ = found.submodule_search_locations\n"
    "runpy.run_module('grpo_accel.doctor', run_name='__main__')\n";

void ga_doctor_python(ga_examination *e, const char *program, const char *script) {
    ga_error error;
    ga_error_clear(&error);
    char path[GA_PYTHON_BYTES];
    if (ga_python_find(program, path, &error) != GA_OK) {
        ga_examination_note(e, "Python", GA_VERDICT_FAIL, "%.400s", error.message);
        return;
    }
    const char *words[] = {
        path, "-c", begin, "--program", GA_COMMAND_VERSION, script != NULL ? "--script" : NULL, script, NULL};
    ga_examination_program(e, "Python", words, PYTHON_SECONDS);
}

"""Does scripts/tidy find what it is there for? Each test plants one fault in a small tree that is clean without."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TIDY = Path(__file__).resolve().parents[2] / "scripts" / "tidy"

CLEAN = {
    "grpo_accel/grpo_accel.h": "#ifndef GRPO_ACCEL_H\n#define GRPO_ACCEL_H\n#define GA_API\n"
                               "GA_API int ga_one(int value);\n#endif\n",
    "grpo_accel/base/status.h": "#ifndef GA_BASE_STATUS_H\n#define GA_BASE_STATUS_H\n"
                                "#include \"grpo_accel/grpo_accel.h\"\nint ga_status(void);\n#endif\n",
    "grpo_accel/base/status.c": "#include \"grpo_accel/base/status.h\"\n\n#include <string.h>\n\n"
                                "int ga_status(void) {\n    return (int)strlen(\"\");\n}\n",
    "grpo_accel/base/meson.build": "files('status.c')\n",
    "grpo_accel/select/plan.h": "#ifndef GA_SELECT_PLAN_H\n#define GA_SELECT_PLAN_H\nint ga_plan(void);\n#endif\n",
    "grpo_accel/select/plan.c": "#include \"grpo_accel/select/plan.h\"\n\n#include \"grpo_accel/base/status.h\"\n\n"
                                "int ga_plan(void) {\n    return ga_status();\n}\n",
    "grpo_accel/select/meson.build": "files('plan.c')\n",
    "tests/unit/test_base.c": "#include <cmocka.h>\n#include \"grpo_accel/base/status.h\"\n",
    "tests/unit/meson.build": "['base', 'select']\n",
}


class Tidy(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        for path, text in CLEAN.items():
            self.write(path, text)

    def write(self, path, text):
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def add(self, path, text):
        self.write(path, CLEAN[path] + text)

    def run_tidy(self, *checks, build=None):
        extra = ["--build", str(build)] if build else []
        done = subprocess.run([sys.executable, str(TIDY), "--root", str(self.root), *extra, *checks],
                              capture_output=True, text=True, check=False)
        self.assertIn(done.returncode, (0, 1), done.stderr)
        self.assertEqual(done.returncode == 1, "finding" in done.stderr, done.stderr)
        return done.stdout

    def assert_finds(self, check, words):
        found = self.run_tidy(check)
        self.assertIn(words, found)
        self.assertEqual(found.count("\n"), 1, found)

    def test_a_clean_tree_is_clean(self):
        self.assertEqual(self.run_tidy("includes", "calls", "shape", "words", "dead", "headers"), "")

    def test_an_include_upward(self):
        self.add("grpo_accel/base/status.c", '#include "grpo_accel/select/plan.h"\n')
        self.assert_finds("includes", "grpo_accel/base/status.c:8: \"grpo_accel/select/plan.h\": room base may not see")

    def test_an_include_sideways(self):
        self.write("grpo_accel/record/row.h", "#ifndef GA_ROW_H\n#define GA_ROW_H\n#endif\n")
        self.add("grpo_accel/select/plan.c", '#include "grpo_accel/record/row.h"\n')
        self.assert_finds("includes", "room select may not see room record")

    def test_an_include_upward_from_a_unit_test(self):
        self.add("tests/unit/test_base.c", '#include "grpo_accel/select/plan.h"\n')
        self.assert_finds("includes", "tests/unit/test_base.c:3:")

    def test_config_is_seen_by_session_and_command_only(self):
        self.write("grpo_accel/config/config.h", "#ifndef GA_CONFIG_H\n#define GA_CONFIG_H\n#endif\n")
        self.write("grpo_accel/session/session.c", '#include "grpo_accel/config/config.h"\n')
        self.assertEqual(self.run_tidy("includes"), "")
        self.write("dist/world.c", '#include "grpo_accel/config/config.h"\n')
        self.assert_finds("includes", "dist/world.c:1:")

    def test_an_outside_header_in_the_wrong_room(self):
        for header in ("mpi.h", "hdf5.h", "yaml.h", "cblas.h", "xxhash.h", "Python.h", "torch/torch.h"):
            with self.subTest(header=header):
                self.write("grpo_accel/select/plan.c",
                           CLEAN["grpo_accel/select/plan.c"] + f"#include <{header}>\n")
                self.assert_finds("includes", f"grpo_accel/select/plan.c:8: <{header}>")

    def test_an_include_that_is_not_from_the_root(self):
        self.add("grpo_accel/select/plan.c", '#include "plan.h"\n')
        self.assert_finds("includes", "include by path from the root")

    def test_calls_that_a_guest_never_makes(self):
        for call in ("printf(\"\");", "exit(1);", "abort();", "assert(1);", "rand();", "usleep(1);", "time(0);",
                     "MPI_Abort(0, 1);", "ga_log(0, \"\");", "fputs(\"\", stderr);"):
            with self.subTest(call=call):
                self.write("grpo_accel/select/plan.c", f"static void f(void) {{\n    {call}\n}}\n")
                self.assert_finds("calls", "grpo_accel/select/plan.c:2:")

    def test_comments_and_texts_are_no_calls(self):
        self.add("grpo_accel/select/plan.c", '/* exit(1) */\nstatic const char *text = "abort()"; // rand()\n')
        self.add("grpo_accel/base/status.c", "_Static_assert(1, \"\");\nint ga_exit(int x);\n")
        self.assertEqual(self.run_tidy("calls"), "")

    def test_a_function_of_71_lines(self):
        body = "    value++;\n" * 68
        text = f"int ga_long(int value,\n    int other) {{\n{body}}}\n"
        self.add("grpo_accel/select/plan.c", text)
        self.assert_finds("shape", "grpo_accel/select/plan.c:8: ga_long has 71 lines")
        self.add("grpo_accel/select/plan.c", text.replace("    value++;\n", "", 1))
        self.assertEqual(self.run_tidy("shape"), "")

    def test_a_long_line_and_a_tab(self):
        self.add("grpo_accel/select/plan.c", "// " + "x" * 108 + "\n")
        self.assert_finds("shape", "111 columns")
        self.add("grpo_accel/select/plan.c", "\tint x;\n")
        self.assert_finds("shape", "tab")

    def test_names_that_say_nothing(self):
        for name in ("utils", "helpers", "CamelCase", "with-dash"):
            with self.subTest(name=name):
                path = self.root / f"grpo_accel/select/{name}.c"
                path.write_text("int x;\n", encoding="utf-8")
                self.assert_finds("shape", f"grpo_accel/select/{name}.c:1: file name")
                path.unlink()

    def test_a_missing_and_a_doubled_guard(self):
        self.write("grpo_accel/select/plan.h", "int ga_plan(void);\n")
        self.assert_finds("shape", "no header guard")
        self.write("grpo_accel/select/plan.h", CLEAN["grpo_accel/base/status.h"])
        self.assert_finds("shape", "is that of")

    def test_words_for_later(self):
        for word in ("TO" "DO", "FIX" "ME", "XX" "X", "HA" "CK", "st" "ub", "place" "holders"):
            with self.subTest(word=word):
                self.write("grpo_accel/select/plan.c", f"/* {word}: more */\n")
                self.assert_finds("words", "promises work for later")
        self.write("grpo_accel/select/plan.c", "/* XXXXXX is a pattern of mkdtemp */\n")
        self.assertEqual(self.run_tidy("words"), "")

    def test_a_path_of_one_machine(self):
        self.write("scripts/go", "cd /wo" "rk/main\n")
        self.assert_finds("words", "scripts/go:1:")

    def test_dead_files(self):
        self.write("grpo_accel/select/left.c", "int x;\n")
        self.assert_finds("dead", "grpo_accel/select/left.c:1: no meson.build lists it")
        (self.root / "grpo_accel/select/left.c").unlink()
        self.write("grpo_accel/select/left.h", "int x;\n")
        self.assert_finds("dead", "grpo_accel/select/left.h:1: nobody includes it")

    def test_a_unit_test_that_meson_does_not_know(self):
        self.write("tests/unit/test_ghost.c", "int x;\n")
        self.assert_finds("dead", "tests/unit/test_ghost.c:1:")

    def test_a_header_that_needs_another_one_first(self):
        self.write("grpo_accel/select/plan.h",
                   "#ifndef GA_SELECT_PLAN_H\n#define GA_SELECT_PLAN_H\nuint32_t ga_plan(void);\n#endif\n")
        self.assertIn("grpo_accel/select/plan.h:1: does not compile alone", self.run_tidy("headers"))

    def build_library(self, source, *options):
        build = self.root / "made"
        build.mkdir(exist_ok=True)
        (build / "one.c").write_text(source, encoding="utf-8")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(build / "libgrpo_accel.so"), str(build / "one.c"), *options],
                       check=True)
        return build

    def test_symbols_of_the_library(self):
        build = self.build_library("int ga_one(int value) { return value; }\n")
        self.assertEqual(self.run_tidy("symbols", build=build), "")
        build = self.build_library("int ga_two(int value) { return value; }\nint leak;\n")
        found = self.run_tidy("symbols", build=build)
        self.assertIn("ga_two is exported and not declared", found)
        self.assertIn("ga_one is declared with GA_API and not exported", found)
        self.assertIn("leak is exported and no ga_ symbol", found)

    def test_a_library_that_must_not_be_linked(self):
        build = self.root / "made"
        build.mkdir()
        subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", str(build / "libnccl.so"), "-"],
                       input="int nccl(void) { return 0; }\n", text=True, check=True)
        build = self.build_library("int nccl(void);\nint ga_one(int value) { return value + nccl(); }\n",
                                   f"-L{build}", "-lnccl")
        self.assertIn("the library needs libnccl.so", self.run_tidy("symbols", build=build))


if __name__ == "__main__":
    unittest.main()

"""tools/tidy on small trees, each of which breaks one rule."""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

GOOD = {
    "cmake/FloorPlan.cmake": "floor(base PURE)\nfloor(runtime ON base)\nfloor(core PURE ON base)\nfloor(prog ON core runtime)\n",
    "base/CMakeLists.txt": "add_module(base SRCS ids.cc HDRS ids.h)\nadd_module(runtime HDRS clock.h)\n",
    "base/ids.h": "#pragma once\n",
    "base/ids.cc": '#include "base/ids.h"\n',
    "base/clock.h": '#pragma once\n#include "base/ids.h"\n',
    "core/CMakeLists.txt": "add_module(core  # one more\n  HDRS core.h)\n",
    "core/core.h": '#pragma once\n#include "base/ids.h"\n',
    "launch/CMakeLists.txt": "add_program(prog SRCS main.cc)\n",
    "launch/main.cc": '#include "base/clock.h"\n#include "core/core.h"\n',
}


def tidy(changes):
    """What tidy finds in GOOD with these files put in, or taken out where None."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in {**GOOD, **changes}.items():
            if text is not None:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
        (root / "tools").mkdir()
        for name in ("tidy", "floor_plan.py"):
            shutil.copy(ROOT / "tools" / name, root / "tools" / name)
        ran = subprocess.run([sys.executable, "-B", root / "tools/tidy"], capture_output=True, text=True, check=False)
        found = ran.stdout.splitlines()
        assert ran.stderr == "" and ran.returncode == (0 if "nothing found" in ran.stdout else 1), ran
        return [] if ran.returncode == 0 else found


class Tidy(unittest.TestCase):
    def finds(self, changes, *findings):
        found = tidy(changes)
        self.assertEqual(len(found), len(findings), found)
        for line, expected in zip(found, findings):
            self.assertIn(expected, line)

    def test_good_tree(self):
        self.finds({})

    def test_edge_that_the_plan_lacks(self):
        self.finds({"base/clock.h": '#pragma once\n#include "base/ids.h"\n#include "core/core.h"\n'},
                   "base/clock.h:3: runtime may not include core/core.h, which is core's")

    def test_folders_do_not_hide_an_edge_between_modules(self):
        self.finds({"base/ids.cc": '#include "base/ids.h"\n#include "base/clock.h"\n'},
                   "base/ids.cc:2: base may not include base/clock.h, which is runtime's")

    def test_edge_that_nobody_uses(self):
        self.finds({"launch/main.cc": '#include "core/core.h"\n'}, "cmake/FloorPlan.cmake:4: prog includes nothing of runtime")

    def test_row_that_nobody_builds(self):
        self.finds({"cmake/FloorPlan.cmake": GOOD["cmake/FloorPlan.cmake"] + "floor(ghost)\n"},
                   "cmake/FloorPlan.cmake:5: no add_module or add_program makes ghost")

    def test_file_of_no_module(self):
        self.finds({"core/lost.h": "#pragma once\n"}, "core/lost.h:1: belongs to no module")

    def test_include_that_does_not_start_at_the_root(self):
        self.finds({"tests/core_test.cc": '#include "dump.h"\n'}, "tests/core_test.cc:1: `#include \"dump.h\"`: includes start")

    def test_comment_that_names_a_file_that_has_moved(self):
        self.finds({"core/core.h": '#pragma once\n// See base/gone.h, llama.cpp:base/theirs.h and base/made.pb.h.\n#include "base/ids.h"\n'},
                   "core/core.h:2: base/gone.h is not there")

    def test_include_of_a_file_of_no_module(self):
        self.finds({"core/core.h": '#pragma once\n#include "base/ids.h"\n#include "tests/fake.h"\n'},
                   "core/core.h:3: tests/fake.h belongs to no module")

    def test_file_of_two_modules(self):
        self.finds({"base/CMakeLists.txt": "add_module(base SRCS ids.cc HDRS ids.h)\nadd_module(runtime HDRS clock.h ids.h)\n"},
                   "base/ids.h:1: belongs to base and runtime", "runtime includes nothing of base")

    def test_programs_may_share_a_source(self):
        self.finds({"cmake/FloorPlan.cmake": GOOD["cmake/FloorPlan.cmake"] + "floor(other ON core runtime)\n",
                    "launch/CMakeLists.txt": "add_program(prog SRCS main.cc)\nadd_program(other SRCS main.cc)\n"})

    def test_pure_module(self):
        self.finds({"core/core.h": '#pragma once\n#include <thread>\n#include "base/ids.h"\n'},
                   "core/core.h:2: `#include <thread>`: core is pure")

    def test_edges_beside_the_plan(self):
        self.finds({"launch/CMakeLists.txt": "add_program(prog SRCS main.cc)\nadd_executable(extra)\n"
                                             "target_link_libraries(prog PRIVATE tailor_options tailor_core)\n"},
                   "launch/CMakeLists.txt:2: add_executable(extra)", "launch/CMakeLists.txt:3: edges between modules")

    def test_banned_calls(self):
        self.finds({"core/core.h": '#pragma once\n#include "base/ids.h"\n// a comment may say steady_clock::now()\n'
                                   "inline auto t() { return steady_clock::now(); }\n"},
                   "core/core.h:4: `steady_clock::now`: read time with now()")

    def test_columns_of_prose(self):
        wide = "word " * 20 + "end\n"
        self.finds({"docs/page.md": "# Page\n\n" + wide + "\n| " + wide + "\n```text\n" + wide + "```\n" + wide},
                   "docs/page.md:3: 103 columns", "docs/page.md:10: 103 columns")

    def test_comments_that_the_formatter_breaks(self):
        self.finds({"core/core.h": "#pragma once\n#include \"base/ids.h\"\n// ---- events\n// ----------------\n"
                                   "// ---- laws ----\nstruct Core {\n  int first =\n      0;  ///< much about it\n"
                                   "  int second = 0;  ///< more\n                   ///< of it\n  int third = 0;  ///< little\n"
                                   "  /// much\n  int fourth = 0;\n};\n"},
                   "core/core.h:4: a section's rule", "core/core.h:8: broken for its comment", "core/core.h:10: a comment of several")

    def test_files_that_a_page_names(self):
        self.finds({"docs/page.md": "See base/ids.h and `core/gone.h`, docs/page.md, elsewhere/x.h, core/x_*.cc.\n",
                    "docs/decisions/001-old.md": "core/gone.h\n"},
                   "docs/page.md:1: core/gone.h is not there")

    def test_numbers_of_decisions(self):
        self.finds({"docs/decisions/001-a.md": "# 1\n", "docs/decisions/002-b.md": "# 2\n", "docs/decisions/002-c.md": "# 2\n"},
                   "docs/decisions/002-c.md:1: 002 is another record's number too")


if __name__ == "__main__":
    unittest.main()

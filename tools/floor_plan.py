"""The floor plan as tools/tidy reads it: the rows of cmake/FloorPlan.cmake, the files that the add_module() and
add_program() calls of each folder list, and every #include "..." of production code held against both."""
import posixpath
import re
import types

# What no file of a pure module includes; its other bans follow from standing on pure modules only.
IMPURE = re.compile(r"#include\s*(<(thread|mutex|shared_mutex|condition_variable|future|semaphore|latch|barrier|stop_token"
                    r"|csignal|signal\.h|unistd\.h|fcntl\.h|poll\.h|netdb\.h|sys/.*|netinet/.*|arpa/.*|spdlog/.*)>"
                    r"|[<\"](mpi\.h|nccl\.h|zmq.*|torch/.*|ATen/.*|c10/.*|.*\.pb\.h)[>\"])")


def commands(root, name):
    """(line, command, words) of each call in a CMake file."""
    text = re.sub(r"#.*", "", (root / name).read_text(encoding="utf-8"))
    for call in re.finditer(r"\b(\w+)\s*\(([^()]*)\)", text):
        yield text.count("\n", 0, call.start()) + 1, call.group(1), call.group(2).split()


class FloorPlan:
    """rows: module -> its line, whether it is pure, what it stands on. owners: file -> modules that list it."""

    def __init__(self, root, names):
        self.root, self.rows, self.owners, self.programs, self.findings = root, {}, {}, set(), []
        if "cmake/FloorPlan.cmake" not in names:
            return
        for line, command, words in commands(root, "cmake/FloorPlan.cmake"):
            if command == "floor" and words[0] != "NAME":
                words = words[:words.index("WITH")] if "WITH" in words else words  # linked, never included
                on = words[words.index("ON") + 1:] if "ON" in words else []
                self.rows[words[0]] = types.SimpleNamespace(line=line, pure="PURE" in words, on=on, used=set(), built=False)
        for name in names:
            if name.endswith("/CMakeLists.txt") and not name.startswith("tests/"):
                self.read_folder(name)

    def read_folder(self, name):
        folder = name[:-len("CMakeLists.txt")]
        for line, command, words in commands(self.root, name):
            if command in ("add_library", "add_executable") and not words[0].startswith("ext_"):
                self.findings.append(f"{name}:{line}: {command}({words[0]}): use add_module or add_program, which keep to "
                                     "the floor plan")
            elif command == "target_link_libraries" and any(re.match(r"tailor_(?!options)", word) for word in words[1:]):
                self.findings.append(f"{name}:{line}: edges between modules stand in cmake/FloorPlan.cmake only")
            elif command in ("add_module", "add_program", "target_sources"):
                module = words[0].removeprefix("tailor_")
                if command == "add_program":
                    self.programs.add(module)
                if module in self.rows:
                    self.rows[module].built = True
                for file in words[1:]:
                    if re.search(r"\.(h|cc|cu|inc)$", file):
                        self.owners.setdefault(posixpath.normpath(folder + file), []).append(module)

    def module(self, name):
        return self.owners.get(name, [""])[0]

    def check_file(self, name, lines, report):
        owners = self.owners.get(name, [])
        if not owners:
            report(1, "belongs to no module: its folder's CMakeLists.txt lists it under SRCS or HDRS")
        if len(owners) > 1 and not self.programs.issuperset(owners) and len({o.removesuffix("_fake") for o in owners}) > 1:
            report(1, f"belongs to {' and '.join(owners)}: only the sources of programs, and of a module and its fake, may be "
                      "shared")
        for number, line in enumerate(lines, 1):
            include = re.match(r'#include "([^"]+)"', line)
            for module in (module for module in owners if module in self.rows):
                if self.rows[module].pure and IMPURE.match(line) and "tidy: allow" not in line:
                    report(number, f"`{line.strip()}`: {module} is pure (cmake/FloorPlan.cmake)")
                elif include and not set(owners) & set(others := self.owners_of_include(include.group(1))):
                    self.check_edge(module, others, include.group(1), lambda what, number=number: report(number, what))

    def owners_of_include(self, path):
        return ["proto"] if path.endswith(".pb.h") else self.owners.get(path, [])

    def check_edge(self, module, others, path, report):
        row = self.rows[module]
        if not others:
            report(f"{path} belongs to no module")
        elif others[0] in row.on:
            row.used.add(others[0])
        else:
            report(f"{module} may not include {path}, which is {others[0]}'s (the floor plan: cmake/FloorPlan.cmake)")

    def check_rows(self):
        """After every file was checked: rows and edges that nothing uses."""
        for module, row in self.rows.items():
            if not row.built:
                self.findings.append(f"cmake/FloorPlan.cmake:{row.line}: no add_module or add_program makes {module}")
            for other in row.on:
                if row.built and other not in row.used:
                    self.findings.append(f"cmake/FloorPlan.cmake:{row.line}: {module} includes nothing of {other}")
        return self.findings

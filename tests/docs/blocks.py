"""The fenced code blocks of README.md and docs/, and what their info strings promise.

The first word is the language (GitHub colours by it alone), the rest says what happens to the block:
    ```sh run                  a test runs it (docs_test.py)
    ```sh nightly              it takes longer: run under the label nightly
    ```text show: a drawing    only shown, and why

    blocks.py cpp FILE.md      prints the file's C++ block as a program (tests/docs/CMakeLists.txt)
"""
import dataclasses
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^ {0,3}(```+|~~~+)(.*)$")
ENDPOINT = "tcp://127.0.0.1:5555"  # what the documents say


@dataclasses.dataclass
class Block:
    path: pathlib.Path
    line: int
    info: str
    text: str = ""

    def __str__(self):
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    @property
    def language(self):
        return self.info.partition(" ")[0]

    @property
    def promise(self):
        """run, nightly, show, or "" where the block has no valid tag."""
        promise = self.info.partition(" ")[2].strip()
        if promise in ("run", "nightly") and self.language in ("sh", "python", "cpp"):
            return promise
        return "show" if self.language and re.fullmatch(r"show: \S.*", promise) else ""

    def commands(self):
        """The lines of a shell block, continuations joined, comments and blank lines left out."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [line for line in joined if line.strip() and not line.lstrip().startswith("#")]


def documents():
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(path):
    found, fence = [], None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = FENCE.match(line)
        if fence is None and match:
            fence = match[1]
            found.append(Block(path, number, match[2].strip()))
        elif fence is not None and match and match[1].startswith(fence) and not match[2].strip():
            fence = None
        elif fence is not None:
            found[-1].text += line + "\n"
    if fence is not None:
        raise AssertionError(f"{found[-1]}: the block never ends")
    return found


def all_blocks():
    return [block for path in documents() for block in blocks_of(path)]


def as_program(path):
    """The one C++ block of a document as a source file; the endpoint comes from the environment."""
    (block,) = [b for b in blocks_of(path) if b.language == "cpp"]
    lines = block.text.replace(f'"{ENDPOINT}"', 'std::getenv("TAILOR_DOC_ENDPOINT")').splitlines()
    head = [line for line in lines if line.startswith(("#include", "using namespace"))]
    body = [line for line in lines if line not in head]
    return "\n".join([f"// Made from {block}.", "#include <cstdlib>", "#include <iostream>", *head,
                      "int report(const tailor::Error& error) {", "  std::cerr << error.message << std::endl;",
                      "  return 1;", "}", "int main() {", *body, "  return 0;", "}", ""])


if __name__ == "__main__":
    assert sys.argv[1] == "cpp", __doc__
    sys.stdout.write(as_program(pathlib.Path(sys.argv[2]).resolve()))

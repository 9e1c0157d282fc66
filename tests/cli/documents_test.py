"""Man pages, --help and what `cmake --install` puts where."""

import os
import pathlib
import re
import subprocess
import tempfile
import unittest

HEARTH = os.environ["HEARTH_PROGRAM"]
BUILD = pathlib.Path(HEARTH).parent.parent
PATIENCE = 120


def output(*command):
    done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout


def help_of(*verb):
    code, text = output(HEARTH, *verb, "--help")
    assert code == 0, text
    return text


def section(text, title):
    """The lines of a list in --help."""
    lines = text.split(f"\n{title}:\n", 1)[1].split("\n\n", 1)[0].splitlines()
    return [line for line in lines if line[2:3] not in (" ", "")]


def verbs():
    return [line.split()[0] for line in section(help_of(), "Verbs")]


class Documents(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="hearth-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_help_reads_well(self):
        self.assertIn("run", verbs())
        self.assertNotIn("man", verbs())
        for verb in ([], *([verb] for verb in verbs())):
            text = help_of(*verb)
            body, _, examples = text.partition("\nExample")
            self.assertTrue(examples.strip(), f"{verb}: no example")
            for line in body.splitlines():
                self.assertLessEqual(len(line), 80, line)
                self.assertEqual(line, line.rstrip())
            for example in examples.splitlines()[1:]:
                self.assertTrue(example.startswith("  hearth"), example)
            # What the parser's library would say of types and checks is not for people.
            for jargon in ("TEXT:", "UINT", "INT in", "POSITIVE", "Excludes:", "REQUIRED"):
                self.assertNotIn(jargon, text)

    def test_help_says_what_options_take(self):
        flat = " ".join(help_of("run").split())
        for text in ("-m, --model FILE.gguf", "--worker KEY@HOST:PORT ...", "--listen HOST[:PORT]", "-f, --file FILE ",
                     "--pin cache|lock", "-lw, --layer-window N,N,...", "-k, --rounds N|auto", "--max-ttft SECONDS",
                     "--memory SIZE", "--cache-dir FOLDER", "-p, --prompt TEXT", "--top-k N ", "--no-repack keep",
                     "(default: 4096)", "(not with --file)"):
            self.assertIn(text, flat)
        flat = " ".join(help_of("plan").split())
        for text in ("--what-if FILE.json", "--gpu-mem NAME=SIZE ...", "(needs --what-if)"):
            self.assertIn(text, flat)

    def test_nothing_to_do_is_a_question_for_help(self):
        self.assertEqual(output(HEARTH), (2, help_of()))
        code, text = output(HEARTH, "walk")
        self.assertEqual(code, 2)
        self.assertIn("there is no verb 'walk'", text)

    def test_every_example_names_what_there_is(self):
        for verb in verbs():
            options = set(re.findall(r"(?<!\S)(--?[a-z][a-z-]*)(?=[ ,\n])", help_of(verb).split("\nOptions:")[1]))
            for example in help_of(verb).partition("\nExample")[2].splitlines()[1:]:
                self.assertEqual(example.split()[1], verb)
                for word in example.split("#")[0].split():
                    if word.startswith("-"):
                        self.assertIn(word, options, example)

    def test_man_pages(self):
        code, text = output(HEARTH, "man", "--folder", self.folder, "--date", "2026-11-28")
        self.assertEqual(code, 0, text)
        pages = sorted(path.name for path in self.folder.glob("*.1"))
        self.assertEqual(pages, sorted(["hearth.1", *(f"hearth-{verb}.1" for verb in verbs())]))
        for name in pages:
            page = self.folder / name
            self.assertEqual(output("mandoc", "-Tlint", "-Wwarning", page), (0, ""), name)
            self.assertEqual(output("groff", "-man", "-ww", "-z", "-Tutf8", page), (0, ""), name)
            code, text = output("mandoc", "-Tutf8", "-Owidth=80", page)
            self.assertEqual(code, 0)
            text = re.sub(".\b", "", text)
            for title in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "ENVIRONMENT", "FILES",
                          "EXIT STATUS"):
                self.assertIn(f"\n{title}\n", text, name)
            self.assertIn("2026-11-28", text)
            self.assertRegex(text, r"\n +130 +interrupted")
            verb = name.removeprefix("hearth").removeprefix("-").removesuffix(".1")
            flat = " ".join(text.split())
            # The same words as --help, whatever the lines.
            help_text = help_of(verb) if verb else help_of()
            listed = re.findall(r"^ {2,6}((?:--?[\w-]+(?:, )?)+)", help_text, re.M)
            self.assertGreater(len(listed), 0)
            for names in listed:
                self.assertIn(names, flat, name)
            for title in re.findall(r"^(Other devices|This device):$", help_text, re.M):
                self.assertIn(title, text, name)
            for example in help_text.partition("\nExample")[2].splitlines()[1:]:
                self.assertIn(example.strip(), text, name)
        self.assertEqual(output(HEARTH, "man", "run")[1].splitlines()[1:],
                         (self.folder / "hearth-run.1").read_text().splitlines()[1:])
        self.assertEqual(output(HEARTH, "man", "walk")[0], 2)

    def test_install(self):
        destination = {**os.environ, "DESTDIR": str(self.folder)}
        subprocess.run(["cmake", "--install", str(BUILD), "--prefix", "/usr"], env=destination, check=True,
                       capture_output=True, timeout=PATIENCE)
        installed = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}
        wanted = {"usr/bin/hearth", "usr/share/man/man1/hearth.1", "usr/share/bash-completion/completions/hearth",
                  "usr/share/zsh/site-functions/_hearth", "usr/share/fish/vendor_completions.d/hearth.fish",
                  "usr/share/hearth/models/ember-q8_0.gguf", "usr/share/doc/hearth/README.md",
                  "usr/share/doc/hearth/LICENSE", *(f"usr/share/man/man1/hearth-{verb}.1" for verb in verbs())}
        self.assertEqual(installed, wanted)
        program = self.folder / "usr/bin/hearth"
        self.assertIn("hearth", output(program, "--version")[1])
        for name, shell in (("bash-completion/completions/hearth", "bash"), ("zsh/site-functions/_hearth", "zsh"),
                            ("fish/vendor_completions.d/hearth.fish", "fish")):
            self.assertEqual((self.folder / "usr/share" / name).read_text(), output(program, "completion", shell)[1])
            self.assertEqual((self.folder / "usr/share" / name).stat().st_mode & 0o777, 0o644)
        # The shipped model is found beside it.
        code, text = output(program, "demo", "--devices", "1", "-k", "1", "-n", "4")
        self.assertEqual(code, 0, text)


if __name__ == "__main__":
    unittest.main(verbosity=2)

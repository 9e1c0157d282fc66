"""hearth completion, in the shells themselves."""

import os
import pathlib
import pty
import re
import select
import subprocess
import tempfile
import time
import unittest

HEARTH = os.environ["HEARTH_PROGRAM"]
PATIENCE = 120
VERBS = {"run", "worker", "demo", "plan", "profile", "show", "pack", "cache", "bench", "keygen", "completion"}


def run(*command, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, **options)
    assert done.returncode == 0 and done.stderr == "", f"{command}: {done.stderr}"
    return done.stdout


def options_of(verb):
    """The names of all options that --help lists."""
    text = run(HEARTH, *([verb] if verb else []), "--help").split("\nOptions:\n")[1].split("\nExample")[0]
    names = set()
    for line in text.splitlines():
        if listed := re.match(r" {2,6}((?:--?[\w-]+(?:, )?)+)", line):
            names.update(listed.group(1).split(", "))
    return names


class Shell:
    """What each shell must offer; complete(line) gives it for the last word of a line."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="hearth-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        for name in ("a.gguf", "my model.gguf", "notes.txt", "home.json"):
            (self.folder / name).touch()
        (self.folder / "sub").mkdir()
        (self.folder / "sub" / "b.gguf").touch()
        self.script = self.folder / "script"
        self.script.write_text(run(HEARTH, "completion", self.shell))
        self.start()

    def start(self):
        pass

    def test_verbs(self):
        self.assertEqual(self.complete("hearth "), VERBS)
        self.assertEqual(self.complete("hearth pro"), {"profile"})
        self.assertEqual(self.complete("hearth --v"), {"--version"})

    def test_options(self):
        for verb in VERBS:
            offered = self.complete(f"hearth {verb} -")
            self.assertEqual({name for name in options_of(verb) if name.startswith("--")} - offered, set(), verb)
        self.assertEqual(self.complete("hearth run --ct"), {"--ctx-size"})
        self.assertEqual(self.complete("hearth run -m a.gguf -p 'two words' --ct"), {"--ctx-size"})
        self.assertIn("--kv-type", self.complete("hearth bench --k"))

    def test_values(self):
        self.assertEqual(self.complete("hearth run --pin "), {"cache", "lock"})
        self.assertEqual(self.complete("hearth worker --pin l"), {"lock"})
        self.assertTrue({"f16", "f32"} <= self.complete("hearth run -ctk "))
        self.assertEqual(self.complete("hearth plan --link-type "), {"auto", "f32", "f16", "q8_0"})
        self.assertEqual(self.complete("hearth run -k "), {"auto"})
        # Nothing is known of these.
        self.assertEqual(self.complete("hearth run -p "), set())
        self.assertEqual(self.complete("hearth run --worker "), set())

    def test_files(self):
        self.assertEqual(self.models("hearth run -m "), {"a.gguf", "my model.gguf"})
        self.assertEqual(self.models("hearth show "), {"a.gguf", "my model.gguf"})
        self.assertEqual(self.models("hearth show --memory 1GB sub/"), {"sub/b.gguf"})
        self.assertIn("home.json", self.complete("hearth plan --what-if "))
        self.assertIn("notes.txt", self.complete("hearth run -f "))
        self.assertEqual({name.rstrip("/") for name in self.complete("hearth pack --cache-dir ")}, {"sub"})

    def test_arguments(self):
        self.assertEqual(self.complete("hearth cache "), {"ls", "rm"})
        self.assertEqual(self.complete("hearth cache --cache-dir ls "), {"ls", "rm"})
        self.assertNotIn("ls", self.complete("hearth cache rm "))
        self.assertEqual(self.complete("hearth completion "), {"bash", "zsh", "fish"})

    def models(self, line):
        """Files, without the folders on the way."""
        return {name for name in self.complete(line) if not name.endswith("/") and (self.folder / name).is_file()}


class Bash(Shell, unittest.TestCase):
    shell = "bash"

    def complete(self, line):
        # As readline hands it over: words, and "=" as one of its own.
        words = re.findall(r"'[^']*'|=|[^\s=']+", line) + ([""] if line.endswith((" ", "=")) else [])
        program = f"""
          source {self.script}
          COMP_WORDS=({' '.join(word if word.startswith("'") else f'"{word}"' for word in words)})
          COMP_CWORD={len(words) - 1}
          $(complete -p hearth | sed 's/.*-F \\([^ ]*\\).*/\\1/') hearth
          printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        return set(run("bash", "--norc", "-uc", program, cwd=self.folder).splitlines()) - {""}

    def test_value_after_equals(self):
        self.assertEqual(self.complete("hearth run --pin="), {"cache", "lock"})
        self.assertEqual(self.complete("hearth run --pin=l"), {"lock"})
        self.assertEqual(self.complete("hearth cache --cache-dir=sub "), {"ls", "rm"})


class Fish(Shell, unittest.TestCase):
    shell = "fish"

    def complete(self, line):
        environment = {**os.environ, "HOME": str(self.folder / "sub"), "XDG_CONFIG_HOME": str(self.folder / "sub")}
        text = run("fish", "--no-config", "-c", 'source script; complete -C "$argv[1]"', line, cwd=self.folder,
                   env=environment)
        return {candidate.split("\t")[0] for candidate in text.splitlines()}

    def models(self, line):
        # fish lists other files too, after those with the ending.
        return {name for name in super().models(line) if name.endswith(".gguf")}

    def test_descriptions(self):
        text = run("fish", "--no-config", "-c", "source script; complete -C 'hearth run --ctx'", cwd=self.folder)
        self.assertIn("tokens of prompt and answer", text)


class Zsh(Shell, unittest.TestCase):
    shell = "zsh"

    def start(self):
        functions = self.folder / "sub" / "functions"
        functions.mkdir()
        self.script.rename(functions / "_hearth")
        # What completion adds is written to a file, as words on a line each.
        (self.folder / "sub" / "setup").write_text(f"""
          PROMPT= RPROMPT= ; unsetopt zle_bracketed_paste prompt_cr prompt_sp 2>/dev/null
          fpath=({functions} $fpath)
          autoload -Uz compinit && compinit -u -D
          cd {self.folder}
          compadd() {{
            # A function that asks which words match: nothing is offered yet.
            if [[ " $* " == *" -"[OAD]" "* ]]; then
              builtin compadd "$@"
              return
            fi
            local -a added
            builtin compadd -O added "$@"
            print -rl -- ${{(Q)added}} >> $answers
            builtin compadd "$@"
          }}
          unsetopt auto_list auto_menu list_beep beep
          bindkey '^T' kill-whole-line
          zstyle ':completion:*' insert-tab false  # nor where more keys wait already
        """)
        main, side = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "HOME": str(self.folder / "sub"), "ZDOTDIR": str(self.folder / "sub")}
        self.process = subprocess.Popen(["zsh", "-f", "-i"], stdin=side, stdout=side, stderr=side, env=environment,
                                        start_new_session=True, close_fds=True)
        os.close(side)
        self.terminal = main
        self.count = 0
        self.addCleanup(self.stop)
        self.command(f"source {self.folder}/sub/setup")

    def models(self, line):
        # zsh adds names without the folder that stands there already.
        folder = line[line.rindex(" ") + 1:]
        return {folder + name for name in self.complete(line) if (self.folder / folder / name).is_file()}

    def stop(self):
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)

    def command(self, text):
        """Runs it, and reads what the terminal shows until it is done."""
        self.count += 1
        os.write(self.terminal, f"{text}; print done-$(({self.count} + 1000))\n".encode())
        self.read_until(f"done-{self.count + 1000}")

    def read_until(self, mark):
        shown, deadline = "", time.monotonic() + PATIENCE
        while mark not in shown:
            ready = select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))[0]
            self.assertTrue(ready, f"zsh shows no {mark}: {shown}")
            shown += os.read(self.terminal, 65536).decode(errors="replace")

    def complete(self, line):
        answers = self.folder / "sub" / "answers"
        answers.write_text("")
        self.command(f"answers={answers}")
        # Complete, then clear the line; ^T means nothing to the terminal itself, which may read it before zsh does.
        os.write(self.terminal, f"{line}\t\x14".encode())
        self.command("answers=/dev/null")
        return set(answers.read_text().splitlines()) - {""}


if __name__ == "__main__":
    unittest.main(verbosity=2)

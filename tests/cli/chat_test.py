"""hearth run as a chat: on a real terminal, by keys; and what its flags make of an answer."""

import json
import os
import pathlib
import signal
import stat
import subprocess
import tempfile
import unittest

import thinking_model
from terminal import Terminal

HEARTH = os.environ["HEARTH_PROGRAM"]
EMBER = os.path.join(os.environ["HEARTH_MODELS"], "ember-q8_0.gguf")
PATIENCE = 120
EXIT_USAGE, EXIT_INTERRUPTED = 2, 130

def flags(model, *arguments):
    """Greedy on one thread, so that every run says the same, but for what is asked for."""
    usual = {"--temp": "0", "-t": "1", "-c": "1024"}
    return ["-m", str(model), *(word for flag in usual.items() if flag[0] not in arguments for word in flag), *arguments]


class Base(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="hearth-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.history = self.folder / "state" / "hearth" / "chat-history"

    def start(self, *arguments, model=EMBER, **environment):
        """A chat that waits at its first prompt."""
        terminal = Terminal([HEARTH, "run", *flags(model, *arguments)],
                            environment={"XDG_STATE_HOME": str(self.folder / "state"), **environment})
        self.addCleanup(terminal.__exit__)
        terminal.wait_for_prompt()
        return terminal

    def run_once(self, *arguments, code=0, model=EMBER):
        done = subprocess.run([HEARTH, "run", *flags(model, *arguments)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, code, done.stderr)
        return done


class Chat(Base):
    def test_questions_and_commands(self):
        chat = self.start("-n", "48", "--no-history")
        first = chat.say("Who are you?")
        self.assertIn("Ember", first)
        # The same as without a terminal.
        self.assertEqual(self.run_once("-n", "48", "-p", "Who are you?").stdout, first + "\n")
        self.assertIn("/regen", chat.say("/?"))
        self.assertIn("there is no command '/nope'", chat.say("/nope"))
        self.assertRegex(chat.say("/set"), r"(?s)temp +0\n.*top-k +40\n.*system +\(none\)")
        self.assertEqual(chat.say("/set top-k 7"), "")
        self.assertEqual(chat.say("/set parameter seed 5"), "")
        self.assertIn("top-p is 7, expected 0 to 1", chat.say("/set top-p 7"))
        self.assertIn("no setting 'nope'", chat.say("/set nope 1"))
        self.assertIn("no switch for reasoning", chat.say("/set think on"))
        self.assertRegex(chat.say("/set"), r"(?s)seed +5\n.*top-k +7\n.*top-p +0.95")
        self.assertEqual(chat.say(""), "")
        self.assertEqual(chat.say("/regen"), first)
        second = chat.say("Who are you?")
        chat.say("/clear")
        self.assertIn("no answer yet", chat.say("/regen"))
        self.assertEqual(chat.say("Who are you?"), first)
        # What was said before is part of a question.
        self.assertEqual(chat.say("Who are you?"), second)
        chat.say("/set system Speak.")
        self.assertRegex(chat.say("/set"), r"system +Speak\.")
        chat.type("/bye")
        chat.key("enter")
        self.assertEqual(chat.wait_for_end(), 0)
        self.assertFalse(self.history.exists())

    def test_editing_and_history(self):
        chat = self.start("-n", "8")
        chat.type("Wh are you?")
        for _ in range(9):
            chat.key("left")
        chat.send("o")
        chat.wait_until(lambda: "Who are you?" in chat.screen.text(chat.screen.row), "the line")
        answer = chat.enter()
        chat.say("Hello, é!")
        chat.key("up")
        chat.wait_until(lambda: chat.screen.line() == "> Hello, é!", "the last line")
        chat.key("up")
        chat.wait_until(lambda: chat.screen.line() == "> Who are you?", "the line before")
        chat.send("\x7f" * 4)  # "you?"
        chat.wait_until(lambda: chat.screen.line() == "> Who are ", "what is left")
        chat.type("they?")
        chat.enter()
        chat.key("ctrl-d")
        self.assertEqual(chat.wait_for_end(), 0)
        self.assertEqual(self.history.read_text(), "Who are you?\nHello, é!\nWho are they?\n")
        self.assertEqual(stat.S_IMODE(self.history.stat().st_mode), 0o600)
        # The next chat finds it.
        chat = self.start("-n", "8")
        chat.key("ctrl-r")
        chat.wait_for("bck")
        chat.send("you")
        chat.wait_until(lambda: "> Who are you?" in chat.screen.text(), "the line that was searched")
        # The search took a line below the prompt, so that the answer tells when it is over.
        self.assertTrue(answer)
        chat.key("enter")
        chat.wait_until(lambda: answer in chat.screen.text() and chat.screen.line() == "> ", "the answer and the prompt")
        chat.key("ctrl-d")
        self.assertEqual(chat.wait_for_end(), 0)

    def test_several_lines(self):
        chat = self.start("-n", "4")
        for lines in (['"""Tell me', 'a story."""'], ["Tell me\\", "a story."]):
            chat.type(lines[0])
            chat.enter(". ")
            chat.type(lines[1])
            chat.enter()
        # Pasted text is one message; Enter ends it.
        row = chat.screen.row
        chat.send("\x1b[200~Tell me\ra story.\x1b[201~")
        chat.wait_until(lambda: chat.screen.row == row + 1 and chat.screen.line() == "a story.", "what was pasted")
        chat.enter()
        chat.say(f"/save {self.folder}/talk.json")
        talk = json.loads((self.folder / "talk.json").read_text())
        self.assertEqual([m["content"] for m in talk["messages"] if m["role"] == "user"], ["Tell me\na story."] * 3)
        chat.type('/set system """Be')
        chat.enter(". ")
        chat.type('brief."""')
        chat.enter()
        self.assertRegex(chat.say("/set"), "system +Be\nbrief.")

    def test_interrupts(self):
        chat = self.start("-n", "-1", "--ignore-eos", "--samplers", "penalties", "--repeat-penalty", "1.3", "-c", "4096")
        row = chat.screen.row
        chat.type("Tell me a story.")
        chat.key("enter")
        chat.wait_until(lambda: len(chat.screen.text(row + 1)) > 20, "the answer")
        chat.key("ctrl-c")
        chat.wait_for_prompt(row)
        # The conversation goes on with what came of the answer.
        chat.say(f"/save {self.folder}/talk.json")
        self.assertGreater(len(json.loads((self.folder / "talk.json").read_text())["messages"][1]["content"]), 10)
        row = chat.screen.row
        chat.type("half a line")
        chat.key("ctrl-c")
        chat.wait_for_prompt(row)
        self.assertIn("Ctrl-C again", chat.screen.text(row))
        self.assertIn("temp", chat.say("/set"))  # that was not the second one
        chat.key("ctrl-c")
        chat.wait_for_prompt(chat.screen.row)
        chat.key("ctrl-c")
        self.assertEqual(chat.wait_for_end(), EXIT_INTERRUPTED)

    def test_terminated_at_the_prompt(self):
        chat = self.start()
        os.kill(chat.pid, signal.SIGTERM)
        self.assertEqual(chat.wait_for_end(), EXIT_INTERRUPTED)

    def test_save_and_load(self):
        file = self.folder / "talk.json"
        chat = self.start("-n", "24")
        chat.say("Tell me a story about a fox.")
        self.assertIn("Saved as", chat.say(f"/save {file}"))
        second = chat.say("What did the fox do?")
        self.assertIn("needs the name", chat.say("/save"))
        self.assertIn("cannot write", chat.say("/save /no/such/folder/x"))
        self.assertIn("Replaced", chat.say(f"/save {file}"))
        self.assertEqual(len(json.loads(file.read_text())["messages"]), 4)
        chat.say("/set temp 0.5")
        chat.say("/clear")
        # Another chat goes on where this one was.
        other = self.start("-n", "24", "--temp", "0.9")
        self.assertIn("no such file", other.say(f"/load {file}x"))
        (self.folder / "broken.json").write_text(file.read_text()[:-9])
        self.assertIn("no JSON", other.say(f"/load {self.folder}/broken.json"))
        talk = json.loads(file.read_text())
        self.assertEqual(talk["settings"]["temp"], 0)
        other_file = self.folder / "precious.txt"
        other_file.write_text("nothing to do with it")
        self.assertIn("holds no conversation", other.say(f"/save {other_file}").replace("\n", " "))
        self.assertEqual(other_file.read_text(), "nothing to do with it")
        del talk["messages"][2:]
        file.write_text(json.dumps(talk))
        self.assertIn("Loaded 2 messages.", other.say(f"/load {file}"))
        self.assertEqual(other.say("What did the fox do?"), second)

    def test_a_full_context_is_said_and_nothing_is_lost(self):
        chat = self.start("-c", "64", "-n", "-1", "--ignore-eos")
        said = chat.say("Tell me a story.")
        self.assertIn("the context of 64 tokens is full; ask for a larger one (-c), or discard the oldest half then "
                      "(--context-shift), or begin anew (/clear)", said.replace("\n", ""))
        self.assertRegex(chat.say("And then?").replace("\n", ""), "64.*the question is left out, the conversation goes on")
        chat.say(f"/save {self.folder}/talk.json")
        self.assertEqual(len(json.loads((self.folder / "talk.json").read_text())["messages"]), 2)
        chat.say("/clear")
        self.assertIn("is full", chat.say("Tell me a story."))

    def test_reasoning_is_dimmed(self):
        model = self.folder / "thinking.gguf"
        thinking_model.write(EMBER, model)
        ask = ("-p", "Who are you?")
        generated = self.run_once(*ask, "--reasoning-format", "none", model=model).stdout.strip()
        thought, rest = generated.split("</think> ")
        chat = self.start(model=model)
        row = chat.screen.row
        self.assertEqual(chat.say("Who are you?"), f"{thought}\n\n{rest}")
        dimmed = ["".join({dim: c for c, dim in [cell]}.get(True, "") for cell in line) for line in chat.screen.lines[row:]]
        self.assertEqual([line for line in dimmed if line], [thought])
        self.assertFalse(chat.screen.dim)
        chat.say(f"/save {self.folder}/talk.json")
        message = json.loads((self.folder / "talk.json").read_text())["messages"][1]
        self.assertEqual((message["content"], message["reasoning"]), (rest, thought))
        # Off: the block is closed before the model begins, and the mark is text.
        chat.say("/clear")
        chat.say("/set think off")
        self.assertRegex(chat.say("/set"), "think +off")
        self.assertIn("think: expected on or off", chat.say("/set think maybe"))
        row = chat.screen.row
        chat.say("Who are you?")
        self.assertFalse(any(dim for line in chat.screen.lines[row:] for _, dim in line))
        # Elsewhere than on a terminal it is left out.
        self.assertEqual(self.run_once(*ask, model=model).stdout, rest + "\n")
        # Under a grammar there is none.
        self.assertEqual(self.run_once(*ask, "--grammar", 'root ::= "I am"', model=model).stdout, "I am\n")

    def test_text_without_roles(self):
        chat = self.start("-n", "8", "--no-chat")
        first = chat.say("Once upon a time")
        self.assertEqual(self.run_once("-n", "8", "--raw", "-p", "Once upon a time").stdout.strip(), first.strip())
        self.assertIn("no system message", chat.say("/set system x"))
        # What is typed is appended to the text.
        chat.say(" and")
        chat.say(f"/save {self.folder}/talk.json")
        texts = [m["content"] for m in json.loads((self.folder / "talk.json").read_text())["messages"]]
        self.assertEqual(texts[2], " and")
        joined = "".join(texts[:3])
        self.assertEqual(self.run_once("-n", "8", "--no-chat", "-p", joined).stdout, texts[3] + "\n")

    def test_a_terminal_that_cannot_move_its_cursor(self):
        chat = self.start("-n", "8", TERM="dumb")
        self.assertIn("Ember", chat.say("Who are you?"))
        chat.send("half")
        chat.wait_for("half")
        chat.key("ctrl-c")
        chat.wait_for("Ctrl-C again")
        chat.key("ctrl-d")
        self.assertEqual(chat.wait_for_end(), 0)


class Answers(Base):
    def test_json_schema(self):
        schema = {"type": "object",
                  "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 1, "maximum": 9},
                                 "kind": {"enum": ["fox", "owl"]}, "friends": {"type": "array", "items": {"type": "string", "pattern": "^[A-Z][a-z]{1,6}$"}, "maxItems": 2}},
                  "required": ["name", "age", "kind", "friends"]}
        file = self.folder / "schema.json"
        file.write_text(json.dumps(schema))
        for temperature, seed in (("0", "1"), ("1.5", "2"), ("1.5", "3"), ("1.5", "4")):
            text = self.run_once("-p", "Tell me about an animal.", "--json-schema", f"@{file}", "--temp", temperature, "-s", seed).stdout
            animal = json.loads(text)
            self.assertEqual(list(animal), ["name", "age", "kind", "friends"])
            self.assertLessEqual(len(animal["name"]), 12)
            self.assertIn(animal["age"], range(1, 10))
            self.assertIn(animal["kind"], ["fox", "owl"])
            self.assertLessEqual(len(animal["friends"]), 2)
            for friend in animal["friends"]:
                self.assertRegex(friend, "^[A-Z][a-z]{1,6}$")
        self.assertIn("--json-schema: #/not: the keyword cannot be used",
                      self.run_once("-p", "x", "--json-schema", '{"not": {}}', code=EXIT_USAGE).stderr)
        self.assertIn("--grammar: expected a grammar, got nothing", self.run_once("-p", "x", "--grammar", " ", code=EXIT_USAGE).stderr)
        self.assertIn("--json-schema: ", self.run_once("-p", "x", "-j", "", code=EXIT_USAGE).stderr)
        cut = self.run_once("-p", "x", "-j", '{"type": "string", "minLength": 500}', "-n", "8", code=1)
        self.assertIn("the answer ended at the most tokens (-n) before it matched as a whole", cut.stderr)
        self.assertIn("cannot read the schema file", self.run_once("-p", "x", "-j", "@/no/file", code=EXIT_USAGE).stderr)

    def test_grammar(self):
        grammar = self.folder / "g.gbnf"
        grammar.write_text('root ::= answer "." # the end\nanswer ::= "yes" | "no"\n')
        for arguments in (("--grammar-file", str(grammar)), ("--grammar", grammar.read_text())):
            self.assertIn(self.run_once("-p", "Is a fox an animal?", *arguments).stdout, ("yes.\n", "no.\n"))
        # Its end ends the answer, whatever is asked for.
        self.assertIn(self.run_once("-p", "x", "--grammar-file", str(grammar), "--ignore-eos", "-n", "50").stdout, ("yes.\n", "no.\n"))
        for bad, message in (('root ::= root "a"', "line 1, column 1: the rule begins with itself"), ("root ::= a", "nowhere defined"),
                             ("root ::= <no-token>", "is not one token of the model")):
            self.assertIn(message, self.run_once("-p", "x", "--grammar", bad, code=EXIT_USAGE).stderr)

    def test_stop_strings(self):
        whole = self.run_once("-p", "Who are you?").stdout.strip()
        # Within a word, over the borders of tokens.
        stop = whole[len(whole) // 2:len(whole) // 2 + 7]
        cut = self.run_once("-p", "Who are you?", "--stop", "never said", "-r", stop).stdout
        self.assertEqual(cut, whole[:whole.index(stop)] + "\n")
        self.assertEqual(self.run_once("-p", "Who are you?", "--stop", whole + "x").stdout.strip(), whole)
        self.assertIn("--stop: a stop string has 0 bytes", self.run_once("-p", "x", "--stop", "", code=EXIT_USAGE).stderr)

    def test_sampling(self):
        story = ("-p", "Tell me a story about a fox and a lamp.", "-n", "40", "--temp", "0.9")
        one = self.run_once(*story, "-s", "7").stdout
        self.assertEqual(self.run_once(*story, "--seed", "7").stdout, one)
        self.assertNotEqual(self.run_once(*story, "--seed", "8").stdout, one)
        self.assertNotEqual(self.run_once(*story, "-s", "7", "--mirostat", "2").stdout, one)
        first = self.run_once("-p", "Who are you?", "--n-predict", "1").stdout.strip()
        # The most likely first token, forbidden: found by what takes its place.
        for arguments, message in ((("-l", "99999+1"), "logit-bias is for token 99999"), (("--logit-bias", "x"), "TOKEN_ID+BIAS"),
                                   (("--top-p", "7"), "top-p is 7, expected 0 to 1"), (("--mirostat", "3"), "mirostat is 3"),
                                   (("--samplers", "top_z"), "there is no sampler 'top_z'"), (("--temp", "x"), "--temp")):
            self.assertIn(message, self.run_once("-p", "x", *arguments, code=EXIT_USAGE).stderr)
        banned = [argument for token in range(2048) if token % 2 for argument in ("-l", f"{token}-inf")]
        self.assertIsInstance(first, str)
        self.run_once("-p", "Who are you?", "-n", "4", *banned)


if __name__ == "__main__":
    unittest.main()

"""A terminal in which a program runs: what it writes as a person sees it, keys typed to it.

Nothing is waited for by time: every wait is for a state of the screen, with a deadline.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

DEADLINE = 90

KEYS = {"up": "\x1b[A", "down": "\x1b[B", "left": "\x1b[D", "right": "\x1b[C", "home": "\x1b[H", "enter": "\r",
        "ctrl-c": "\x03", "ctrl-d": "\x04", "ctrl-r": "\x12", "ctrl-w": "\x17", "backspace": "\x7f"}


class Screen:
    """The part of a terminal that programs of lines use. Lines are kept for ever; each cell is (character, dimmed)."""

    def __init__(self, width):
        self.width = width
        self.lines = [[]]
        self.row = self.column = 0
        self.dim = False
        self.rest = ""

    def feed(self, text):
        text = self.rest + text
        self.rest = ""
        at = 0
        while at < len(text):
            c = text[at]
            if c == "\x1b":
                sequence = re.compile(r"\x1b(?:\[([?\d;]*)([@-~])|[^\[])").match(text, at)
                if sequence is None:
                    self.rest = text[at:]
                    return
                if sequence[2]:
                    self.control(sequence[1], sequence[2])
                at = sequence.end()
                continue
            at += 1
            if c == "\r":
                self.column = 0
            elif c == "\n":
                self.down(1)
            elif c == "\b":
                self.column = max(0, self.column - 1)
            elif c == "\t":
                self.column = min(self.width - 1, self.column // 8 * 8 + 8)
            elif c >= " ":
                self.put(c)

    def put(self, c):
        if self.column == self.width:
            self.column = 0
            self.down(1)
        line = self.lines[self.row]
        line.extend([(" ", False)] * (self.column + 1 - len(line)))
        line[self.column] = (c, self.dim)
        self.column += 1

    def down(self, n):
        self.row += n
        while len(self.lines) <= self.row:
            self.lines.append([])

    def control(self, numbers, kind):
        n = int(numbers) if numbers.isdigit() else 1
        if kind == "A":
            self.row = max(0, self.row - n)
        elif kind == "B":
            self.down(n)
        elif kind == "C":
            self.column = min(self.width - 1, self.column + n)
        elif kind == "D":
            self.column = max(0, self.column - n)
        elif kind == "G":
            self.column = n - 1
        elif kind == "K" and numbers in ("", "0"):
            del self.lines[self.row][self.column:]
        elif kind == "J" and numbers in ("", "0"):
            del self.lines[self.row][self.column:]
            del self.lines[self.row + 1:]
        elif kind == "@":
            self.lines[self.row][self.column:self.column] = [(" ", False)] * n
        elif kind == "P":
            del self.lines[self.row][self.column:self.column + n]
        elif kind == "m":
            self.dim = numbers == "2"

    def text(self, first=0):
        return "\n".join("".join(c for c, _ in line).rstrip() for line in self.lines[first:])

    def line(self):
        """That of the cursor, up to it."""
        return "".join(c for c, _ in self.lines[self.row])[:self.column].ljust(self.column)


class Terminal:
    def __init__(self, arguments, *, environment=None, width=100, height=40):
        self.screen = Screen(width)
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm", "LC_ALL": "C.UTF-8", **(environment or {})})
            os.execv(arguments[0], arguments)
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.status = None
        self.undecoded = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.descriptor)

    def read(self, seconds):
        """Takes what was written; false where the program has closed the terminal."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:
            return False
        self.undecoded += data
        text = self.undecoded.decode("utf-8", "ignore")
        # What is cut within a character waits.
        cut = len(self.undecoded) - len(text.encode())
        self.undecoded = self.undecoded[-cut:] if 0 < cut < 4 else b""
        self.screen.feed(text)
        return bool(data)

    def wait_until(self, condition, what):
        end = time.monotonic() + DEADLINE
        while not condition():
            left = end - time.monotonic()
            if left < 0 or not self.read(left):
                if condition():
                    return
                raise AssertionError(f"{what} did not come; the screen:\n{self.screen.text()}")

    def wait_for(self, pattern):
        found = re.compile(pattern, re.S)
        self.wait_until(lambda: found.search(self.screen.text()), pattern)

    def send(self, text):
        os.write(self.descriptor, text.encode())

    def key(self, name):
        self.send(KEYS[name])

    # A chat's prompts.

    def wait_for_prompt(self, after_row=-1, prompt="> "):
        self.wait_until(lambda: self.screen.row > after_row and self.screen.line() == prompt, f"the prompt '{prompt}'")

    def type(self, text):
        """Types into the line and waits until it is shown."""
        before = self.screen.line()
        self.send(text)
        self.wait_until(lambda: self.screen.line() == before + text, f"'{text}'")

    def enter(self, prompt="> "):
        """Ends the line, waits for the next prompt, gives what came between."""
        row = self.screen.row
        self.key("enter")
        self.wait_for_prompt(row, prompt)
        return self.screen.text(row + 1).rsplit("\n", 1)[0] if self.screen.row > row + 1 else ""

    def say(self, text):
        self.type(text)
        return self.enter()

    def wait_for_end(self):
        """The exit code; negative for a signal."""
        end = time.monotonic() + DEADLINE
        while self.read(max(0, end - time.monotonic())):
            if time.monotonic() > end:
                raise AssertionError(f"the program did not end; the screen:\n{self.screen.text()}")
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        return self.status

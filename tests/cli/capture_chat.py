"""Writes docs/howto/chat-session.txt and .svg: a chat with the shipped model, as a terminal shows it.

    ./dev shell python3 -B tests/cli/capture_chat.py build/release/bin/hearth
"""

import html
import os
import pathlib
import sys
import tempfile

import thinking_model
from terminal import Terminal

ROOT = pathlib.Path(__file__).resolve().parents[2]
WIDTH = 92


def talk(hearth, model, screen, folder, story):
    arguments = [hearth, "run", "-m", str(model), "--temp", "0", "-c", "1024"]
    terminal = Terminal(arguments, environment={"XDG_STATE_HOME": str(folder / "state")}, width=WIDTH)
    with terminal:
        terminal.wait_for_prompt()
        story(terminal)
        shown = list(terminal.screen.lines)
    while shown and not shown[-1]:
        shown.pop()
    command = f"$ hearth run -m {pathlib.Path(model).name} --temp 0"
    screen.append([(c, False) for c in command])
    screen.extend(shown)
    screen.append([])


def first(terminal):
    terminal.say("Who are you?")
    terminal.type('"""Tell me a story')
    terminal.enter(". ")
    terminal.type('about a fox and a lamp."""')
    terminal.key("enter")
    row = terminal.screen.row
    terminal.wait_until(lambda: len(terminal.screen.text(row)) > 240, "a part of the story")
    terminal.key("ctrl-c")
    terminal.wait_for_prompt(row)
    terminal.say("/set temp 0.7")
    terminal.say("/set temp warm")
    terminal.say("/set seed 3")
    terminal.say("/save fox.json")
    terminal.say("/clear")
    terminal.say("/load fox.json")
    terminal.say("What is 2 + 3?")
    terminal.type("/bye")
    terminal.key("enter")
    terminal.wait_for_end()


def second(terminal):
    terminal.say("Who are you?")
    terminal.key("ctrl-d")
    terminal.wait_for_end()


def plain(screen):
    return "\n".join("".join(c for c, _ in line).rstrip() for line in screen).rstrip() + "\n"


def svg(screen):
    step, x = 18, 12
    height = step * (len(screen) + 1)
    rows = []
    for number, line in enumerate(screen, 1):
        runs = []
        for c, dim in line:
            if runs and runs[-1][1] == dim:
                runs[-1][0].append(c)
            else:
                runs.append([[c], dim])
        spans = "".join(f'<tspan{" class=\"d\"" if dim else ""}>{html.escape("".join(text))}</tspan>' for text, dim in runs)
        if spans:
            rows.append(f'<text x="{x}" y="{number * step}" xml:space="preserve">{spans}</text>')
    width = int(WIDTH * 8.45) + 2 * x
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
            "<style>text{font:14px ui-monospace,Menlo,Consolas,monospace;fill:#e6e6e6}.d{fill:#8a8a8a}</style>\n"
            f'<rect width="100%" height="100%" rx="8" fill="#1c1c1c"/>\n' + "\n".join(rows) + "\n</svg>\n")


def main():
    hearth = str(pathlib.Path(sys.argv[1]).resolve())
    screen = []
    with tempfile.TemporaryDirectory(prefix="hearth-capture-") as name:
        folder = pathlib.Path(name)
        os.chdir(folder)
        talk(hearth, ROOT / "models/ember-q8_0.gguf", screen, folder, first)
        thinking = folder / "thinking.gguf"
        thinking_model.write(ROOT / "models/ember-q8_0.gguf", thinking)
        talk(hearth, thinking, screen, folder, second)
    target = ROOT / "docs/howto/chat-session"
    target.with_suffix(".txt").write_text(plain(screen))
    target.with_suffix(".svg").write_text(svg(screen))
    print(plain(screen), end="")


if __name__ == "__main__":
    main()

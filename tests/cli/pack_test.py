"""hearth pack and hearth cache as people and scripts call them."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

HEARTH = os.environ["HEARTH_PROGRAM"]
MODEL = os.path.join(os.environ["HEARTH_MODELS"], "ember-q4_k_m.gguf")
PATIENCE = 120
EXIT_USAGE, EXIT_MODEL = 2, 3


class Pack(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="hearth-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.cache = self.folder / "packs"

    def hearth(self, *arguments, code=0):
        done = subprocess.run([HEARTH, *arguments, "--cache-dir", str(self.cache)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def pack(self, *arguments):
        return json.loads(self.hearth("pack", "-m", MODEL, "--json", *arguments).stdout)

    def test_packs_and_goes_on(self):
        first = self.pack("--layers", "0-2,7")
        self.assertEqual((first["layers"], first["output_head"]), ([0, 1, 2, 7], False))
        self.assertEqual(first["packed_bytes"], first["bytes"])
        every = self.pack()
        self.assertEqual((every["layers"], every["output_head"]), (list(range(8)), True))
        self.assertEqual(every["packed_bytes"], every["bytes"] - first["bytes"])
        checked = self.pack("--verify")
        self.assertEqual((checked["packed_bytes"], checked["verified_bytes"]), (0, every["bytes"]))
        self.assertIn("nothing had to be packed", self.hearth("pack", "-m", MODEL).stdout)

        with open(every["pack"], "r+b") as file:  # the last layer's or the head's weights
            file.seek(-5000, os.SEEK_END)
            byte = file.read(1)
            file.seek(-5000, os.SEEK_END)
            file.write(bytes([byte[0] ^ 1]))
        done = self.hearth("pack", "-m", MODEL, "--verify", "--json")
        self.assertIn("damaged", done.stderr)
        self.assertGreater(json.loads(done.stdout)["packed_bytes"], 0)
        self.assertEqual(self.pack("--verify")["packed_bytes"], 0)

    def test_killed_at_any_moment(self):
        reference = self.pack()
        whole = pathlib.Path(reference["pack"]).read_bytes()
        os.unlink(reference["pack"])
        for tenth in range(10):
            process = subprocess.Popen([HEARTH, "pack", "-m", MODEL, "--cache-dir", str(self.cache)],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            # Until so much of it is on the disk, or it was too fast.
            while process.poll() is None:
                if any(path.stat().st_blocks * 512 * 10 >= tenth * len(whole) for path in self.cache.glob("*.pack")):
                    break
            process.kill()
            process.wait()
            again = self.pack("--verify")
            self.assertEqual(pathlib.Path(again["pack"]).read_bytes(), whole)
            os.unlink(again["pack"])
        self.hearth("cache", "rm", "--all")
        self.assertEqual(list(self.cache.iterdir()), [])

    def test_cache_lists_and_removes(self):
        empty = json.loads(self.hearth("cache", "--json").stdout)
        self.assertEqual(empty, {"folder": str(self.cache), "packs": []})
        self.pack("--layers", "3")
        self.pack("--no-repack")
        packs = json.loads(self.hearth("cache", "ls", "--json").stdout)["packs"]
        by_layout = {pack["repacked"]: pack for pack in packs}
        self.assertEqual(set(by_layout), {True, False})
        self.assertEqual((by_layout[True]["layers"], by_layout[True]["state"]), ([3], "partial"))
        self.assertEqual((by_layout[False]["n_layer"], by_layout[False]["state"]), (8, "complete"))
        self.assertLess(by_layout[True]["disk_bytes"], by_layout[False]["disk_bytes"])
        text = self.hearth("cache").stdout
        self.assertIn("layer 3 of 8", text)
        self.assertIn("all 8 layers and the output head", text)
        self.hearth("cache", "rm", by_layout[True]["name"])
        self.assertEqual(len(json.loads(self.hearth("cache", "--json").stdout)["packs"]), 1)
        self.assertIn("removed 1 pack", self.hearth("cache", "rm", "--all").stdout)

    def test_nothing_is_packed_for_what_cannot_be_asked(self):
        model = str(self.folder / "no-template.gguf")
        synth = os.path.join(os.path.dirname(HEARTH), "hearth-synth")
        subprocess.run([synth, "--shape", "small", "--type", "Q4_0", "-o", model], check=True, capture_output=True)
        done = self.hearth("run", "-m", model, "--memory", "60MB", "-c", "64", "-p", "hi", code=EXIT_MODEL)
        self.assertIn("--no-chat", done.stderr)
        self.assertFalse(self.cache.exists(), done.stderr)

    def test_says_what_is_wrong(self):
        for code, message, *arguments in (
                (EXIT_USAGE, "layers 0-7", "pack", "-m", MODEL, "--layers", "3-8"),
                (EXIT_USAGE, "--layers", "pack", "-m", MODEL, "--layers", "1,"),
                (EXIT_USAGE, "--layers", "pack", "-m", MODEL, "--layers", "2-1"),
                (EXIT_USAGE, "--model is required", "pack"),
                (EXIT_MODEL, "magic", "pack", "-m", HEARTH),
                (EXIT_USAGE, "no such file", "pack", "-m", "/nowhere/model.gguf"),
                (EXIT_USAGE, "is a directory", "pack", "-m", "/"),
                (EXIT_USAGE, "no such pack", "cache", "rm", "no.pack"),
                (EXIT_USAGE, "no name of a pack", "cache", "rm", "../x.pack"),
                (EXIT_USAGE, "--all", "cache", "rm"),
                (EXIT_USAGE, "ACTION", "cache", "mv")):
            self.assertIn(message, self.hearth(*arguments, code=code).stderr, arguments)


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""hearth show, compared with what another reader finds in the same file."""

import collections
import json
import math
import os
import pathlib
import subprocess
import tempfile
import unittest

import gguf_files
from gguf_files import ARRAY, BOOL, F32, STRING, U32

HEARTH = os.environ["HEARTH_PROGRAM"]
MODELS = pathlib.Path(os.environ["HEARTH_MODELS"])
SYNTH = os.path.join(os.path.dirname(HEARTH), "hearth-synth")
PATIENCE = 120
EXIT_USAGE, EXIT_MODEL = 2, 3


def by_type(tensors):
    """(type, tensors, values, bytes), the most bytes first."""
    sums = collections.defaultdict(lambda: [0, 0, 0])
    for _, kind, shape, size in tensors:
        sums[kind][0] += 1
        sums[kind][1] += math.prod(shape)
        sums[kind][2] += size
    return sorted(((kind, *numbers) for kind, numbers in sums.items()), key=lambda row: -row[3])


class Show(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="hearth-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def show(self, *arguments, code=0):
        done = subprocess.run([HEARTH, "show", *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def json(self, *arguments, code=0):
        return json.loads(self.show(*arguments, "--json", code=code).stdout)

    def synth(self, name, *arguments):
        path = self.folder / name
        subprocess.run([SYNTH, *arguments, "-o", str(path)], check=True, capture_output=True)
        return path

    def test_counts_as_another_reader_does(self):
        paths = [*MODELS.glob("*.gguf"), self.synth("tied.gguf", "--type", "Q8_0", "--tied", "--arch", "qwen3"),
                 self.synth("freqs.gguf", "--type", "F16", "--rope-freqs", "--rope-scale-linear", "4")]
        self.assertGreater(len(paths), 4)
        for path in paths:
            file = gguf_files.Reader(path)
            said = self.json(path)
            self.assertEqual([(t["name"], t["type"], t["shape"], t["bytes"]) for t in said["tensors"]], file.tensors)
            self.assertEqual(said["parameters"], sum(math.prod(shape) for _, _, shape, _ in file.tensors))
            self.assertEqual(said["parameters_per_token"], said["parameters"])
            self.assertEqual(said["tensor_bytes"], sum(size for *_, size in file.tensors))
            self.assertEqual([tuple(t.values()) for t in said["types"]], by_type(file.tensors))
            self.assertEqual(list(said["metadata"]), list(file.metadata))

            arch = file.metadata["general.architecture"]
            self.assertEqual((said["architecture"], said["runnable"]), (arch, True))
            for key, value in said["hyper_parameters"].items():
                self.assertEqual(file.metadata[f"{arch}.{key}"], value)
            self.assertEqual(len(said["hyper_parameters"]), sum(key.startswith(arch + ".") for key in file.metadata))

            for layer in said["layers"]:
                tensors = [t for t in file.tensors if t[0].startswith(f"blk.{layer['layer']}.")]
                self.assertEqual([tuple(t.values()) for t in layer["types"]], by_type(tensors))
                self.assertEqual(layer["bytes"], said["layer_bytes"][layer["layer"]])
            self.assertEqual(len(said["layers"]), file.metadata[arch + ".block_count"])
            sizes = {name: size for name, _, _, size in file.tensors}
            self.assertEqual(said["embedding_bytes"], sizes["token_embd.weight"])
            head = sizes.get("output.weight", sizes["token_embd.weight"]) + sizes["output_norm.weight"]
            self.assertEqual(said["output_bytes"], head)
            self.assertEqual(said["tied_embeddings"], "output.weight" not in sizes)
            self.assertEqual(said["others"]["bytes"], sizes.get("rope_freqs.weight", 0))

            rows = next(shape for name, _, shape, _ in file.tensors if name == "blk.0.attn_k.weight")[1]
            self.assertEqual(said["kv_bytes_per_1024_tokens_by_type"]["f32"], len(said["layers"]) * 1024 * 2 * rows * 4)
            self.assertEqual(said["kv_bytes_per_1024_tokens_by_type"]["f16"], len(said["layers"]) * 1024 * 2 * rows * 2)
            self.assertEqual(said["needs"]["weight_bytes"], sum(said["layer_bytes"]) + head)

    def test_text_folds_equal_layers(self):
        path = MODELS / "ember-q4_k_m.gguf"
        file = gguf_files.Reader(path)
        groups = collections.defaultdict(list)
        for layer in range(file.metadata["llama.block_count"]):
            groups[str(by_type([t for t in file.tensors if t[0].startswith(f"blk.{layer}.")]))].append(layer)
        text = self.show(path).stdout
        lines = [line.split() for line in text.splitlines() if line.startswith("  layer ")]
        self.assertEqual(len(lines), len(groups))
        for line, layers in zip(lines, groups.values()):
            named = []
            for part in line[1].split(","):
                first, _, last = part.partition("-")
                named += range(int(first), int(last or first) + 1)
            self.assertEqual((named, int(line[2])), (layers, len(layers)))
        # Once each, as the file names them.
        for key in ("block_count", "rope.freq_base", "license", "attention.head_count_kv"):
            self.assertEqual(sum(line.split()[:1] == [key] for line in text.splitlines()), 1, key)

    def test_what_memory_there_is_for(self):
        path = self.synth("small.gguf", "--shape", "small", "--type", "Q4_0")
        all_of_it = self.json(path, "-c", 64)
        needs = all_of_it["needs"]
        self.assertEqual(needs["all_bytes"], needs["weight_bytes"] + needs["kv_bytes"] + needs["buffer_bytes"])
        self.assertEqual((needs["n_ctx"], needs["n_ubatch"]), (64, 64))
        self.assertLess(needs["least_bytes"], needs["all_bytes"])
        # The program takes a part of what is lent, one with a sanitizer a large one.
        plenty = 2_000_000_000
        taken = plenty - self.json(path, "-c", 64, "--memory", plenty)["this_device"]["lends_bytes"]
        self.assertGreater(taken, 0)
        between = taken + (needs["least_bytes"] + needs["all_bytes"]) // 2
        short = self.json(path, "-c", 64, "--memory", between)["this_device"]
        self.assertEqual(short["verdict"], "streams")
        self.assertGreater(short["streamed_bytes_per_token"], 0)
        self.assertEqual(short["streamed_bytes_per_token"] + short["kept_bytes"], needs["weight_bytes"])
        self.assertIn("for every token", self.show(path, "-c", 64, "--memory", between).stdout)
        none = self.json(path, "-c", 1 << 24, "--memory", "1GB")
        self.assertEqual(none["this_device"]["verdict"], "too_small")
        self.assertGreater(none["needs"]["least_bytes"], none["this_device"]["lends_bytes"])
        # Keys and values of a larger context, two bytes each.
        file = gguf_files.Reader(path)
        rows = next(shape for name, _, shape, _ in file.tensors if name == "blk.0.attn_k.weight")[1]
        self.assertEqual(none["needs"]["kv_bytes"], file.metadata["llama.block_count"] * (1 << 24) * 2 * rows * 2)

    def test_template_tokenizer_and_lists(self):
        path = MODELS / "ember-q8_0.gguf"
        file = gguf_files.Reader(path)
        self.assertEqual(self.show(path, "--template").stdout.rstrip("\n"),
                         file.metadata["tokenizer.chat_template"].rstrip("\n"))
        said = self.json(path)
        self.assertEqual(said["chat_template"], file.metadata["tokenizer.chat_template"])
        tokens = file.metadata["tokenizer.ggml.tokens"]
        self.assertEqual((said["tokenizer"]["model"], said["tokenizer"]["n_vocab"]), ("llama", len(tokens)))
        eos = file.metadata["tokenizer.ggml.eos_token_id"]
        self.assertEqual(said["tokenizer"]["special"]["eos"], {"id": eos, "text": tokens[eos]})
        metadata = self.show(path, "--metadata").stdout.splitlines()
        self.assertEqual([line.split()[0] for line in metadata], list(file.metadata))
        self.assertTrue(all(len(line) < 800 for line in metadata))
        tensors = self.show(path, "--tensors").stdout.splitlines()[1:]
        self.assertEqual([line.split()[0] for line in tensors], [name for name, *_ in file.tensors])

    def test_split_files(self):
        self.synth("part-00001-of-00003.gguf", "--type", "Q8_0", "--split-files", "3")
        parts = sorted(self.folder.glob("part-*"))
        said = self.json(parts[0])
        self.assertEqual(said["files"], 3)
        self.assertEqual([(part["path"], part["bytes"]) for part in said["parts"]],
                         [(str(path), path.stat().st_size) for path in parts])
        self.assertEqual([part["tensors"] for part in said["parts"]],
                         [len(gguf_files.Reader(path).tensors) for path in parts])
        self.assertEqual(len(said["tensors"]), sum(part["tensors"] for part in said["parts"]))

    def test_what_cannot_be_run_is_described(self):
        path = self.folder / "other.gguf"
        # 8 experts of which a token uses 2: 6 of 8 of their weights are idle.
        gguf_files.write(path, [("general.architecture", STRING, "nosuch"), ("general.name", STRING, "Other"),
                                ("nosuch.block_count", U32, 2), ("nosuch.expert_count", U32, 8),
                                ("nosuch.expert_used_count", U32, 2), ("nosuch.rope.freq_base", F32, 500000.0),
                                ("nosuch.scales", ARRAY, (F32, [0.5] * 100))],
                         [("token_embd.weight", [16, 10]), ("blk.0.ffn_up_exps.weight", [16, 4, 8]),
                          ("blk.1.ffn_up_exps.weight", [16, 4, 8]), ("output_norm.weight", [16]), ("strange", [3])])
        done = self.show(path, code=EXIT_MODEL)
        for text in ("'Other'", "hearth cannot run it", "nosuch", "layer 0-1", "500000", "... 100 in all"):
            self.assertIn(text, done.stdout)
        self.assertIn("supported are: ", done.stderr)
        said = self.json(path, code=EXIT_MODEL)
        self.assertFalse(said["runnable"])
        self.assertIn("nosuch", said["why_not"])
        self.assertEqual(said["parameters"], 160 + 2 * 512 + 16 + 3)
        self.assertEqual(said["parameters_per_token"], 160 + 2 * 128 + 16 + 3)
        self.assertEqual(said["others"]["tensors"], 1)
        self.assertEqual(said["hyper_parameters"]["expert_count"], 8)
        self.assertEqual((said["metadata"]["nosuch.scales"]["count"], len(said["metadata"]["nosuch.scales"]["first"])),
                         (100, 64))
        self.assertNotIn("needs", said)
        self.assertIn("no chat template", self.show(path, "--template", code=EXIT_MODEL).stderr)
        empty = self.folder / "empty.gguf"
        gguf_files.write(empty, [], [])
        self.assertIn("no architecture", self.show(empty, code=EXIT_MODEL).stdout)
        self.json(empty, code=EXIT_MODEL)

    def test_names_cannot_move_the_cursor(self):
        path = self.folder / "hostile.gguf"
        odd = "\u202e\u2028x"  # of a key or name, in which control characters are an error
        evil = "\x1b[2J\x07\u0085" + odd
        gguf_files.write(path, [("general.architecture", STRING, "a" + odd), ("general.name", STRING, evil),
                                ("general.author", ARRAY, (STRING, [evil] * 3)), ("a" + odd + ".b", U32, 1),
                                ("tokenizer.ggml.model", STRING, evil), ("tokenizer.ggml.pre", STRING, evil),
                                ("tokenizer.ggml.tokens", ARRAY, (STRING, [evil.encode() + b"\xff\xfe"] * 2)),
                                ("tokenizer.ggml." + odd + "_token_id", U32, 1),
                                ("tokenizer.ggml.eos_token_id", U32, 4_000_000_000),
                                ("tokenizer.ggml.add_" + odd, BOOL, True),
                                ("tokenizer.chat_template." + odd, STRING, evil),
                                ("tokenizer.chat_template", STRING, "{% for i in range(10 ** 18) %}{% endfor %}\n" + evil)],
                         [("blk.4294967295." + odd, [1]), ("blk.99999999999." + odd, [1]), (odd, [1])])
        for mode in ([], ["--metadata"], ["--tensors"], ["--template"]):
            done = self.show(path, *mode, code=0 if mode else EXIT_MODEL)
            self.assertEqual({c for c in done.stdout if not c.isprintable() and c != "\n"}, set(), mode)
            self.assertEqual({c for c in done.stderr if ord(c) < 32 and c != "\n" or 0x7f <= ord(c) < 0xa0}, set(), mode)
        said = self.json(path, code=EXIT_MODEL)
        self.assertEqual(said["name"], evil)
        self.assertIsNone(said["tokenizer"]["special"]["eos"]["text"])

    def test_says_what_is_wrong(self):
        ember = MODELS / "ember-q8_0.gguf"
        for code, message, *arguments in ((EXIT_USAGE, "MODEL is required",), (EXIT_MODEL, "magic", HEARTH),
                                          (EXIT_USAGE, "no such file", "/nowhere/model.gguf"),
                                          (EXIT_USAGE, "--memory", ember, "--memory", "many"),
                                          (EXIT_USAGE, "--ctx-size", ember, "-c", "0"),
                                          (EXIT_USAGE, "--ubatch-size", ember, "-ub", "9000")):
            self.assertIn(message, self.show(*arguments, code=code).stderr, arguments)


if __name__ == "__main__":
    unittest.main(verbosity=2)

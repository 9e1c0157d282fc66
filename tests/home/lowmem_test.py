"""The arithmetic of bench/lowmem, and that its cases are those that are asked for."""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
from home import Run, cgroup  # noqa: E402
from lowmem import cases, report  # noqa: E402
from lowmem.programs import Llama  # noqa: E402


class Limit(unittest.TestCase):
    def test_by_hand(self):
        # 1000 bytes, 500 of memory, of which 60 are fixed and 40 slots: 600 to read at 100 a second.
        self.assertEqual(report.limit_s(1000, 500, 100, 1.0, 60, 40), 6.0)
        self.assertEqual(report.limit_s(1000, 500, 100, 7.0, 60, 40), 7.0)  # computing takes longer
        self.assertEqual(report.limit_s(1000, 1100, 100, 0.25), 0.25)  # all fits: never negative
        self.assertEqual(report.limit_s(1000, 1100, 100, 0.25, 150), 0.5)


class Ratio(unittest.TestCase):
    def test_median_of_rounds(self):
        median, low, high = report.ratio([1.0, 2.0, 4.0], [2.0, 6.0, 16.0])
        self.assertEqual(median, 3.0)
        self.assertTrue(2.0 <= low <= median <= high <= 4.0)

    def test_rounds_without_one_side_do_not_count(self):
        self.assertEqual(report.ratio([1.0, None, 3.0], [2.0, 9.0, None]), (2.0, 2.0, 2.0))
        self.assertIsNone(report.ratio([None, 1.0], [1.0, None]))
        self.assertIsNone(report.ratio([], [1.0]))


class Cases(unittest.TestCase):
    def test_all(self):
        names = [case.name for case in cases.all_cases()]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(len(names), (3 + 2 + 2) * 8 + 6)
        self.assertIn("1b:4x100@10", names)
        self.assertIn(cases.QUICK[0], cases.all_cases())

    def test_patterns(self):
        self.assertEqual([case.name for case in cases.chosen(["8b:*@50"])], ["8b:1x500@50", "8b:1x2000@50", "8b:4x150@50"])
        self.assertEqual(cases.chosen(["9b:*"]), [])


class FakeDevice:
    """A device whose program says what it is told to."""

    class spec:
        cores = 2

    def __init__(self, lines, code=0, errors="", capped=False, oom_kills=0):
        self._run = Run(command=[], code=code, started=0, seconds=9, lines=lines, errors=errors, capped=capped,
                        use=cgroup.Use(oom_kills=oom_kills, memory_failures=3, peak_memory_bytes=77), stolen_share=0.01,
                        other_share=0.02, samples=[(1.0, 0, 0, 999, 0), (5.0, 0, 0, 20, 0), (6.0, 0, 0, 30, 0)])
        self.head = self

    def file(self, name):
        return name

    def run(self, *_, **__):
        return self._run

    def read_ahead(self):
        return 8192

    def set_read_ahead(self, kib):
        self.set = kib

    def forget_caches(self):
        pass


TOKENS = [(1.0, '{"event": "model", "weight_bytes": 5}'), (2.0, '{"event": "loaded", "load_s": 1}'),
          (3.0, '{"event": "token", "warm_up": true, "s": 50, "read_bytes": 7000, "major_faults": 900}'),
          (4.5, '{"event": "token", "warm_up": false, "s": 1.5, "read_bytes": 100, "major_faults": 4}'),
          (6.0, '{"event": "token", "warm_up": false, "s": 1.0, "read_bytes": 300, "major_faults": 0}')]


class Programs(unittest.TestCase):
    def measured(self, lines, **options):
        self.device = FakeDevice(lines, **options)
        return Llama("llama", "llama-decode", [], 128).run(self.device, "m.gguf", 2, 60)

    def test_tokens_after_warm_up_count(self):
        measured = self.measured([*TOKENS, (6.1, '{"event": "done"}')])
        self.assertEqual((measured.status, measured.s_per_token), ("ok", [1.5, 1.0]))
        self.assertEqual((measured.read_bytes_per_token, measured.major_faults_per_token), (200, 2))
        self.assertEqual((measured.memory_failures, measured.peak_memory_bytes), (3, 77))
        self.assertEqual(measured.anonymous_bytes, 30)
        self.assertAlmostEqual(measured.taken_share, 0.03)
        self.assertEqual(self.device.set, 8192)

    def test_ends(self):
        self.assertEqual(self.measured(TOKENS[:4], code=-9, oom_kills=1).status, "OOM-killed")
        self.assertEqual(self.measured([*TOKENS[:4], (9, '{"event": "capped"}')]).status, "capped")
        self.assertEqual(self.measured(TOKENS[:2], capped=True, code=-9).status, "capped")
        failed = self.measured([], code=1, errors="llama-decode: no such file\n")
        self.assertEqual((failed.status, failed.message), ("failed", "llama-decode: no such file"))
        self.assertEqual(self.measured([], code=4, errors="does not fit").status, "refused")


if __name__ == "__main__":
    unittest.main(verbosity=2)

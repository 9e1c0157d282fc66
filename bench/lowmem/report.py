"""The arithmetic and the table: physical limit, shares, ratios."""

import random
import statistics


def limit_s(weight_bytes, memory_bytes, disk_bytes_per_s, compute_s, fixed_bytes=0, slot_bytes=0):
    """No token can be faster: bytes over bandwidth, or computing alone. All but compute_s are of one device."""
    missing = max(0.0, weight_bytes - (memory_bytes - fixed_bytes - slot_bytes))
    return max(compute_s, missing / disk_bytes_per_s)


def ratio(ours, theirs, n_draws=2000):
    """theirs / ours over rounds in which both ran: (median, low, high), the latter a 95 % bootstrap interval; None
    without such a round. Each argument: seconds per round, None where there is none."""
    ratios = [b / a for a, b in zip(ours, theirs) if a and b]
    if not ratios:
        return None
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(n_draws))
    return statistics.median(ratios), medians[int(0.025 * n_draws)], medians[int(0.975 * n_draws) - 1]


def _mb(value):
    return "-" if value is None else f"{value / 1e6:.0f}"


def _number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


HEADER = (f"{'case':<14}{'program':<30}{'s/token':>9}{'MB/token':>10}{'pinned MB':>11}{'slots MB':>10}{'anon MB':>9}"
          f"{'faults':>9}{'failcnt':>9}{'limit s':>9}{'share':>7}  {'of hearth':<22}status")


def row(line):
    """A line of the results as a line of the table."""
    ratios = line["ratio_to_hearth"]
    of_hearth = f"{ratios[0]:.2f}x [{ratios[1]:.2f}, {ratios[2]:.2f}]" if ratios else ""
    share = None if line["share_of_limit"] is None else 100 * line["share_of_limit"]
    status = line["status"] + ("" if line["undisturbed"] else ", DISTURBED") + \
        (f": {line['message']}" if line["message"] else "")
    return (f"{line['case']['name']:<14}{line['program']:<30}{_number(line['s_per_token'], 3):>9}"
            f"{_mb(line['read_bytes_per_token']):>10}{_mb(line['pinned_bytes']):>11}{_mb(line['slot_bytes']):>10}"
            f"{_mb(line['anonymous_bytes']):>9}{_number(line['major_faults_per_token'], 1):>9}"
            f"{line['memory_failures']:>9}{_number(line['limit_s'], 3):>9}"
            f"{'-' if share is None else f'{share:.0f} %':>7}  {of_hearth:<22}{status}")

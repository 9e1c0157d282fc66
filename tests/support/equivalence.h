// When two runs of one model count as equivalent although their sums were not taken in the same order.
//
// The rule: the logits' normalised mean square error is at most 1e-4, and the top token of a row may differ
// only where the reference's two best logits lie closer together than twice the largest difference of any
// logit.
//
// Models whose rounding errors grow from layer to layer do not keep to 1e-4 even when libllama is compared
// with itself (chunks or single tokens, with or without flash attention). For them the error may be twice
// that of libllama with itself, measured in the same test on the same tokens; a test that uses this says so.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <format>
#include <iostream>
#include <span>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace hearth::testing {

using LogitRows = std::vector<std::vector<float>>;

inline constexpr double kMaxNmse = 1e-4;

struct Comparison {
  std::size_t n_rows = 0;
  std::size_t n_equal = 0;  // rows without any difference
  std::size_t n_same_top = 0;
  double max_difference = 0;
  double nmse = 0;                   // sum of squared differences / sum of squares of the reference
  std::vector<std::size_t> flipped;  // rows whose top token differs although the margin forbids it
};

// Indices of the best and the second best logit; of equal ones the lower index is better.
struct Top2 {
  std::size_t best = 0, second = 0;
};
[[nodiscard]] inline Top2 top2(std::span<const float> row) {
  Top2 top = row[1] > row[0] ? Top2{1, 0} : Top2{0, 1};
  for (std::size_t i = 2; i < row.size(); ++i) {
    if (row[i] > row[top.best]) {
      top = {i, top.best};
    } else if (row[i] > row[top.second]) {
      top.second = i;
    }
  }
  return top;
}

[[nodiscard]] inline Comparison compare(const LogitRows& reference, const LogitRows& rows) {
  Comparison c{.n_rows = reference.size(), .flipped = {}};
  double error = 0, power = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    double row_difference = 0;
    for (std::size_t j = 0; j < reference[i].size(); ++j) {
      const double difference = double{rows[i][j]} - double{reference[i][j]};
      row_difference = std::max(row_difference, std::abs(difference));
      error += difference * difference;
      power += double{reference[i][j]} * double{reference[i][j]};
    }
    c.max_difference = std::max(c.max_difference, row_difference);
    if (row_difference == 0) ++c.n_equal;
  }
  c.nmse = power > 0 ? error / power : 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const Top2 wanted = top2(reference[i]);
    if (top2(rows[i]).best == wanted.best) {
      ++c.n_same_top;
    } else if (double{reference[i][wanted.best]} - double{reference[i][wanted.second]} >=
               2 * c.max_difference) {
      c.flipped.push_back(i);
    }
  }
  return c;
}

// EXPECT_TRUE(equivalent("f16 links", reference, rows)); prints the figures too. floor: NMSE of libllama with
// itself.
[[nodiscard]] inline ::testing::AssertionResult equivalent(std::string_view what, const LogitRows& reference,
                                                           const LogitRows& rows, double floor = 0) {
  const auto same_size = [](const auto& a, const auto& b) { return a.size() == b.size(); };
  if (reference.empty() || !std::ranges::equal(reference, rows, same_size))
    return ::testing::AssertionFailure() << what << ": " << rows.size() << " rows of logits, expected "
                                         << reference.size() << " of the same length, at least one";
  const Comparison c = compare(reference, rows);
  std::string figures =
      std::format("{}: {} rows, {} equal, same top token in {}, largest difference {:.3g}, NMSE {:.3g}", what,
                  c.n_rows, c.n_equal, c.n_same_top, c.max_difference, c.nmse);
  if (floor > 0) figures += std::format(" (libllama with itself {:.3g})", floor);
  std::cout << "[ figures  ] " << figures << "\n";
  const double limit = std::max(kMaxNmse, 2 * floor);
  // Written so that NaN fails.
  if (!(c.nmse <= limit))
    return ::testing::AssertionFailure() << figures << "; NMSE must be at most " << limit;
  if (!c.flipped.empty())
    return ::testing::AssertionFailure()
           << figures << "; row " << c.flipped.front()
           << " has another top token although the margin is not below twice the largest difference";
  return ::testing::AssertionSuccess();
}

}  // namespace hearth::testing

// More memory, a faster disk, processor, GPU or link, or a further device never makes the best plan worse.
#include <limits>
#include <random>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "plan/exact_solver.h"
#include "plan/test_ring_cases.h"

namespace hearth::plan {
namespace {

// The least period of up to six rounds; infinite: no plan.
double best_period_s(const RingTerms& terms) {
  const auto best = solve_exactly_for_any(terms, 6);
  return best ? best->period_s : std::numeric_limits<double>::infinity();
}

// `improve` makes better one device of a random ring, or the ring.
template <class Improve>
void expect_no_worse(Improve improve) {
  std::mt19937 draw(*rc::gen::arbitrary<std::uint32_t>());
  RingTerms terms = random_terms(draw, 4, 16);
  const double before = best_period_s(terms);
  RC_LOG() << text_of(terms);
  improve(draw, terms, terms.devices[up_to(draw, static_cast<std::uint32_t>(terms.devices.size()) - 1)]);
  RC_LOG() << "better:\n" << text_of(terms);
  const double after = best_period_s(terms);
  RC_CLASSIFY(after < before, "faster");
  RC_ASSERT(after <= before * (1 + 1e-12));
}

RC_GTEST_PROP(Monotone, MoreMemory, ()) {
  expect_no_worse(
      [](auto& draw, auto&, DeviceTerms& device) { device.ram_bytes += up_to(draw, 4 * kLayer); });
}

RC_GTEST_PROP(Monotone, MoreMemoryOfAGpu, ()) {
  expect_no_worse([](auto& draw, auto&, DeviceTerms& device) {
    if (!device.unified) device.vram_bytes += up_to(draw, 4 * kLayer);
  });
}

RC_GTEST_PROP(Monotone, AFasterDisk, ()) {
  expect_no_worse([](auto& draw, auto&, DeviceTerms& device) { device.disk_s *= between(draw, 0.1, 1); });
}

RC_GTEST_PROP(Monotone, FasterComputing, ()) {
  expect_no_worse([](auto& draw, auto&, DeviceTerms& device) {
    device.cpu_s *= between(draw, 0.1, 1);
    device.gpu_s *= between(draw, 0.1, 1);
  });
}

RC_GTEST_PROP(Monotone, FasterLinks, ()) {
  expect_no_worse([](auto& draw, auto&, DeviceTerms& device) {
    device.hop_s *= between(draw, 0.1, 1);
    device.upload_s *= between(draw, 0.1, 1);
  });
}

RC_GTEST_PROP(Monotone, AFurtherDevice, ()) {
  expect_no_worse([](auto& draw, RingTerms& terms, DeviceTerms&) {
    terms.devices.push_back(random_terms(draw, 1, 16).devices[0]);
  });
}

}  // namespace
}  // namespace hearth::plan

#include "engine/member.h"

#include <algorithm>

namespace hearth::engine {

void CancelSet::add(std::uint64_t first, std::uint64_t last) {
  if (first > last) return;
  // Ranges that overlap or touch the new one melt into it.
  std::erase_if(ranges_, [&](const Range& range) {
    const bool touches = range.first <= last + (last < UINT64_MAX ? 1 : 0) &&
                         first <= range.last + (range.last < UINT64_MAX ? 1 : 0);
    if (touches) {
      first = std::min(first, range.first);
      last = std::max(last, range.last);
    }
    return touches;
  });
  ranges_.insert(std::ranges::upper_bound(ranges_, first, {}, &Range::first), {first, last});
  if (ranges_.size() > kMaxRanges) ranges_.erase(ranges_.begin());
}

bool CancelSet::has(std::uint64_t batch) const {
  return std::ranges::any_of(ranges_,
                             [&](const Range& range) { return range.first <= batch && batch <= range.last; });
}

MemberCore::MemberCore(const wire::Prepare& plan, std::uint16_t device)
    : epoch_(plan.epoch), device_(device), expected_(plan.steps.size() + 1, 1) {
  HEARTH_CHECK(!plan.steps.empty() && device < plan.members.size(), "a plan that was not validated");
  for (const wire::Member& member : plan.members) names_.push_back(member.name);
  for (const wire::StepSpec& step : plan.steps) step_devices_.push_back(step.device);
}

std::uint16_t MemberCore::device_of_step(std::size_t step) const {
  return step < step_devices_.size() ? step_devices_[step] : std::uint16_t{0};
}

std::string MemberCore::describe(std::uint16_t device) const {
  return device < names_.size() ? names_[device] : std::format("unknown device {}", device);
}

Result<MemberCore::Verdict> MemberCore::on_frame(const wire::FrameHead& frame, std::uint16_t from) {
  if (frame.epoch != epoch_)
    return Drop{
        std::format("a frame of epoch {} from {}, this is epoch {}", frame.epoch, describe(from), epoch_)};
  if (frame.step > n_steps())
    return fail(ErrorCode::kProtocol, "{} sent batch {} for step {}, the plan has {} and the output stage",
                describe(from), frame.batch, frame.step, n_steps());
  if (!is_own(frame.step))
    return fail(ErrorCode::kProtocol, "{} sent batch {} for step {} to {}, that step belongs to {}",
                describe(from), frame.batch, frame.step, describe(device_),
                describe(device_of_step(frame.step)));
  const std::uint16_t sender = frame.step == 0 ? std::uint16_t{0} : device_of_step(frame.step - 1u);
  if (from != sender)
    return fail(ErrorCode::kProtocol, "{} sent batch {} for step {}, only {} may", describe(from),
                frame.batch, frame.step, describe(sender));
  std::uint64_t& expected = expected_[frame.step];
  if (frame.batch != expected)
    return fail(ErrorCode::kProtocol, "{} sent batch {} for step {}, expected batch {}: {}", describe(from),
                frame.batch, frame.step, expected,
                frame.batch < expected ? "it was here before" : "one is missing");
  ++expected;
  return Run{.step = frame.step, .suppressed = suppressed(frame.batch)};
}

MemberCore::Destination MemberCore::destination(std::uint16_t step) const {
  HEARTH_CHECK(step < n_steps(), "the output stage sends nothing on");
  const auto next = static_cast<std::uint16_t>(step + 1);
  return {device_of_step(next), next};
}

}  // namespace hearth::engine

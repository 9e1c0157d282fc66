// MemberCore: the data side of one device in one epoch: which frames it may get, from whom, and where they
// go.
//
// A plan is a list of steps. A batch passes all of them in order, step i on device steps[i], and last the
// head's output stage (step n_steps, device 0). For each of its own steps a device sees the batches 1, 2, 3
// and so on exactly once, in order, each from the device of the step before (the head for step 0; a device
// hands frames to itself when two steps in a row are its own). Anything else is an error of the sender, never
// a silent repair: a repeated or missing batch would change the KV state.
//
// Pure. Thread contract: none; one thread owns it (compute may own a CancelSet of its own).
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "wire/codec.h"
#include "wire/messages.h"

namespace hearth::engine {

// Which batches need no compute any more. Forgetting is harmless (the batch is computed for nothing), so the
// set is bounded.
class CancelSet {
 public:
  static constexpr std::size_t kMaxRanges = 64;

  void add(std::uint64_t first, std::uint64_t last);
  [[nodiscard]] bool has(std::uint64_t batch) const;
  [[nodiscard]] std::size_t n_ranges() const { return ranges_.size(); }

 private:
  struct Range {
    std::uint64_t first, last;
  };
  std::vector<Range> ranges_;  // ascending, apart by more than one
};

class MemberCore {
 public:
  // `plan` passed validate_prepare (plan_rules.h); device < plan.members.size().
  MemberCore(const wire::Prepare& plan, std::uint16_t device);

  // The frame is the next one of its step: apply operations and placement for that window, compute unless
  // `suppressed` or the frame is operations_only (then pass it on as operations_only), and send it to
  // destination(step).
  struct Run {
    std::uint16_t step = 0;  // n_steps: the head's output stage
    bool suppressed = false;
  };
  // Not of this epoch: ignore it.
  struct Drop {
    std::string reason;
  };
  using Verdict = std::variant<Run, Drop>;

  // `from`: index of the proven sender (sender_index); the own index for frames handed to itself. kProtocol
  // names sender, step and batch when the frame breaks the rules above; the epoch cannot go on then. Nothing
  // changes on Drop and error.
  [[nodiscard]] Result<Verdict> on_frame(const wire::FrameHead& frame, std::uint16_t from);

  // Batches first..last need no compute: from a CancelBatches action.
  void cancel(std::uint64_t first, std::uint64_t last) { cancelled_.add(first, last); }
  // Ask again right before computing: a cancel overtakes frames that already wait.
  [[nodiscard]] bool suppressed(std::uint64_t batch) const { return cancelled_.has(batch); }

  struct Destination {
    std::uint16_t device = 0;
    std::uint16_t step = 0;  // to write into the frame
  };
  // Where the result of `step` (< n_steps) goes.
  [[nodiscard]] Destination destination(std::uint16_t step) const;
  // Where the head sends a new batch.
  [[nodiscard]] Destination entry() const { return {device_of_step(0), 0}; }

  [[nodiscard]] std::uint32_t epoch() const { return epoch_; }
  [[nodiscard]] std::uint16_t device() const { return device_; }
  [[nodiscard]] std::uint16_t n_steps() const { return static_cast<std::uint16_t>(step_devices_.size()); }
  // The batch that step expects next, 1 at first; own steps only (n_steps on the head).
  [[nodiscard]] std::uint64_t expected(std::uint16_t step) const { return expected_[step]; }

 private:
  [[nodiscard]] std::uint16_t device_of_step(std::size_t step) const;  // n_steps: 0
  [[nodiscard]] bool is_own(std::size_t step) const { return device_of_step(step) == device_; }
  [[nodiscard]] std::string describe(std::uint16_t device) const;

  std::uint32_t epoch_;
  std::uint16_t device_;
  std::vector<std::string> names_;
  std::vector<std::uint16_t> step_devices_;
  std::vector<std::uint64_t> expected_;  // n_steps + 1
  CancelSet cancelled_;
};

}  // namespace hearth::engine

// ExecutorRing: the executors of a ring's devices on one thread. Frames are those that links would carry, and
// are counted.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/batcher.h"
#include "engine/plan_rules.h"
#include "model/model_file.h"
#include "node/executor.h"
#include "plan/plan.h"

namespace hearth::testing {

class ExecutorRing {
 public:
  // The layers as evenly as they go on `n_devices`, one round. options.n_ctx and n_ubatch count. `gpu`: of
  // each.
  [[nodiscard]] static Result<std::unique_ptr<ExecutorRing>> create(const std::string& model_path,
                                                                    std::uint32_t n_devices,
                                                                    const engine::EpochOptions& options,
                                                                    const node::GpuUse& gpu = {});
  ~ExecutorRing();

  // Appends tokens to the one text, in batches of at most n_ubatch; the logits of all of them or of the last.
  [[nodiscard]] Result<std::vector<std::vector<float>>> read(std::span<const std::int32_t> tokens,
                                                             engine::Outputs outputs);
  // Bytes of all frames since the last call.
  [[nodiscard]] std::uint64_t take_bytes_sent();
  // What each device took.
  [[nodiscard]] std::span<const engine::LoadReport> reports() const { return reports_; }

 private:
  ExecutorRing(model::ModelFile model, std::unique_ptr<compute::Backend> backend);
  Result<> load(std::uint32_t n_devices, const engine::EpochOptions& options, const node::GpuUse& gpu);
  Result<> pass_frames();

  struct Sent {
    std::uint16_t from = 0, to = 0;
    std::vector<std::uint8_t> frame;
  };
  model::ModelFile model_;
  std::unique_ptr<compute::Backend> backend_;
  std::vector<std::unique_ptr<node::Executor>> executors_;
  std::unique_ptr<engine::Batcher> batcher_;
  std::uint32_t sequence_ = 0;
  std::deque<Sent> sent_;
  std::uint64_t bytes_sent_ = 0;
  std::vector<engine::LoadReport> reports_;
  std::vector<std::vector<float>> rows_;
};

}  // namespace hearth::testing

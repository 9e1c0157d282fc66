// InProcessRing: the real windows of a ring, each device with its own buffers, in one process and thread.
//
// Every hop passes through the wire codec, so what is tested is what a link would carry. Used by the
// exactness and equivalence tests; the sockets have tests of their own.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compute/backend.h"
#include "compute/head.h"
#include "compute/window.h"
#include "model/model_file.h"
#include "plan/plan.h"
#include "residency/gpu_source.h"
#include "residency/resident_source.h"
#include "support/moving_source.h"
#include "wire/codec.h"

namespace hearth::testing {

struct RingOptions {
  // Layers per device and round, or of n_devices in each round; empty: one device has all.
  std::vector<std::uint32_t> windows = {};
  std::uint32_t rounds = 1;
  std::size_t n_devices = 0;  // 0: one for each window
  std::uint32_t n_threads = 1;
  std::uint32_t n_ctx = 512;
  std::uint32_t n_ubatch = 512;
  bool repack = true;
  bool flash_attention = true;
  wire::KvTypes kv_type = {};
  wire::HiddenEncoding encoding = wire::HiddenEncoding::kF32;
  std::optional<MovingOptions> moving_weights = {};  // every part at another address each time
  std::string gpu = {};                              // its name; empty: none
  std::uint32_t gpu_layers = 0;                      // the output head, then the model's last layers
};

class InProcessRing {
 public:
  [[nodiscard]] static Result<std::unique_ptr<InProcessRing>> create(const std::string& model_path,
                                                                     const RingOptions& options);
  ~InProcessRing();

  // Runs one batch through all steps; token_ids as long as batch.tokens. Returns the logits of the output
  // rows, [n_outputs][n_vocab].
  [[nodiscard]] Result<std::vector<float>> run(const wire::Batch& batch,
                                               std::span<const std::int32_t> token_ids);

  // One sequence from an empty cache: the prompt in chunks of n_ubatch, then n greedy tokens. logits: one row
  // per token.
  struct Greedy {
    std::vector<std::int32_t> tokens;
    std::vector<std::vector<float>> logits;
  };
  [[nodiscard]] Result<Greedy> greedy(std::span<const std::int32_t> prompt, std::uint32_t n);

  [[nodiscard]] const model::ModelFile& model() const;
  [[nodiscard]] std::span<const std::unique_ptr<compute::Window>> windows() const;
  [[nodiscard]] const plan::Plan& plan() const;
  [[nodiscard]] std::uint64_t repacked_bytes() const;  // of weights in another layout than the file's

 private:
  struct Impl;
  explicit InProcessRing(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Index of the largest value, the lowest where several are equal (as libllama's greedy sampler).
[[nodiscard]] std::int32_t argmax(std::span<const float> row);

}  // namespace hearth::testing

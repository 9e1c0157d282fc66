// The whole model on this device by hearth's own windows, without links: what is timed against libllama.
//
// One thread: ggml's OpenMP team belongs to the thread that computes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "compute/head.h"
#include "compute/window.h"
#include "model/model_file.h"
#include "residency/resident_source.h"

namespace hearth::bench {

struct SideOptions {
  std::uint32_t n_threads = 1;
  std::uint32_t n_ctx = 1024;
  std::uint32_t n_ubatch = 512;
  bool repack = true;
};

class HearthSide {
 public:
  [[nodiscard]] static Result<std::unique_ptr<HearthSide>> create(const std::string& model_path,
                                                                  const SideOptions& options);

  // Forgets positions >= first of sequence 0, then computes tokens at first, first + 1, …; logits of the last
  // one. Returns the seconds from tokens to logits.
  [[nodiscard]] Result<double> decode(std::span<const std::int32_t> tokens, std::int32_t first);
  // Of the last decode, valid until the next.
  [[nodiscard]] std::span<const float> logits() const { return logits_; }

  [[nodiscard]] const model::ModelFile& model() const { return *model_; }
  // Bytes a decode step at `position` reads: the weights of all layers and the output head once, the KV cells
  // so far.
  [[nodiscard]] std::uint64_t bytes_per_token(std::uint32_t position) const;

 private:
  HearthSide() = default;

  std::unique_ptr<model::ModelFile> model_;
  std::unique_ptr<compute::Backend> backend_;
  std::unique_ptr<residency::ResidentSource> weights_;
  std::unique_ptr<compute::Scratch> scratch_;
  std::unique_ptr<compute::Window> window_;
  std::unique_ptr<compute::Head> head_;
  wire::Batch batch_;
  std::span<const float> logits_;
};

}  // namespace hearth::bench

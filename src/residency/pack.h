// Packs: a model's weights on this device, in the order and the layout they are computed with
// (docs/reference/pack.md, docs/adr/0002-pack-layout.md).
//
// ensure_pack() gives an open pack that holds the segments asked for, whatever it found on the disk: it
// builds what is missing, rebuilds what is damaged and replaces what was made for something else. It can be
// ended at any moment, by a crash too; the layers that were complete stay. One thread per call; several
// processes may call it for the same pack, one of them builds.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "base/result.h"
#include "model/model_file.h"
#include "residency/division.h"
#include "residency/pack_file.h"

struct ggml_backend_device;

namespace hearth::residency {

struct PackOptions {
  bool repack = true;
  std::uint64_t max_block_bytes = kBlockBytes;  // of rows of a matrix; tests have small matrices
  std::filesystem::path cache_dir;              // empty: default_cache_dir(); made when it is not there
  // Compare the BLAKE3 of the segments asked for, and rebuild what is wrong. Reads them all.
  bool verify = false;
  // What must stay free on the disk.
  std::uint64_t reserve_bytes = std::uint64_t{1} << 30;
  // Bytes of the pack built so far, and to be built.
  std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress;
  // The same for `verify`.
  std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> verify_progress;
  // Asked a few times per tensor; true ends the work with kCancelled.
  std::function<bool()> cancelled;
  // Told once when another process builds this pack; the call then waits for it.
  std::function<void(const std::filesystem::path& pack)> waiting;
  // Told what was found wrong and is rebuilt, and which old packs were removed.
  std::function<void(const std::string& text)> notice;
};

// `segments`: layers and the output head, in any order; the embedding has no place in packs. Memory: two
// copies of the model's largest matrix while packing. Errors: kInvalidFile (the model: cut short, or a norm
// or bias that is no number), kIo (disk full, with what is needed and free; a failing read or write),
// kOutOfMemory, kCancelled, kNotFound (no folder for packs). The pack on the disk is valid after each of
// them.
[[nodiscard]] Result<PackFile> ensure_pack(const model::ModelFile& model,
                                           std::span<const model::SegmentId> segments,
                                           ggml_backend_device* device, const PackOptions& options);

}  // namespace hearth::residency

// MappedPack: an open pack as pages of memory. Parts of it are brought in, kept there and given back, and it
// is known whether the file is still the one that was opened.
//
// Thread contract: still_good() by one thread at a time, everything else by any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>

#include "base/os_fault_guard.h"
#include "base/result.h"
#include "residency/pack_file.h"

namespace hearth::residency {

// One part as it is stored: tensors of one segment, one behind the other, each on a block of its own.
struct StoredPart {
  std::uint64_t offset = 0;             // in the pack
  std::uint64_t bytes = 0;              // a multiple of kPackBlock
  std::span<const PackTensor> tensors;  // of the pack's header

  // Whether the tensors have their bytes in a copy of the part, or in the part itself, at `at`.
  [[nodiscard]] bool intact(const std::uint8_t* at) const;
};

class MappedPack {
 public:
  // Nothing of it is in memory afterwards: what building and looking left in the page cache is dropped, and a
  // missing page is read alone. kUnsupported (no guard to be had), kIo.
  [[nodiscard]] static Result<std::unique_ptr<MappedPack>> open(PackFile file);

  [[nodiscard]] const PackFile& file() const { return file_; }
  [[nodiscard]] std::span<const std::uint8_t> bytes(const StoredPart& part) const {
    return file_.bytes().subspan(part.offset, part.bytes);
  }
  [[nodiscard]] bool intact(const StoredPart& part) const { return part.intact(bytes(part).data()); }

  // Reads the part into memory. kIo, kCancelled after `stop`.
  [[nodiscard]] Result<> bring_in(const StoredPart& part, std::stop_token stop = {}) const;
  // bring_in(), and tells the system that it will be used again and again; with `locked` it stays whoever
  // wants the memory (kOutOfMemory).
  [[nodiscard]] Result<> keep(const StoredPart& part, bool locked, std::stop_token stop = {}) const;
  // Asks for the permission to lock it, before anything is read. kOutOfMemory.
  [[nodiscard]] Result<> may_lock(const StoredPart& part) const;
  // Its memory is the system's again.
  void give_back(const StoredPart& part) const;
  // Whether all its pages are in memory; also where the system does not say.
  [[nodiscard]] bool is_resident(const StoredPart& part) const;

  // Whether the file is what it was, as far as pages go that were computed with: kIo when some could not be
  // read. When it was written to, `look_through` judges; while another process holds its lock, to add layers,
  // only once that is done.
  [[nodiscard]] Result<> still_good(const std::function<Result<>()>& look_through);

  // Opens the same file again, also when its name is another's by now.
  [[nodiscard]] std::string descriptor_path() const;
  // An error of whoever opened it by that name.
  [[nodiscard]] Error named(Error error) const;
  [[nodiscard]] Error damaged(model::SegmentId segment) const;

 private:
  explicit MappedPack(PackFile file) : file_(std::move(file)) {}

  PackFile file_;
  std::optional<FaultGuard> guard_;
  FileState state_;
};

}  // namespace hearth::residency

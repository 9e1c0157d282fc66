// PackWriter: the one process that writes to a pack, layer by layer, so that it is valid at every moment.
//
// A layer is committed by: its bytes, fdatasync, its record, fdatasync. A crash before the last step leaves
// the layer absent, all others as they were. A pack appears under its name with its header complete. The lock
// (flock) on the file lasts as long as the writer. Written pages are dropped from the page cache as it goes:
// packing a model must not cost other programs their memory. One thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <utility>

#include "base/result.h"
#include "residency/pack_format.h"

namespace hearth::residency {

// A POSIX descriptor that closes itself.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor();
  [[nodiscard]] int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

class PackWriter {
 public:
  struct Options {
    // Told once when another process holds the pack; the call then waits for it.
    std::function<void(const std::filesystem::path&)> waiting;
    // Asked when a signal interrupts that wait; true: kCancelled.
    std::function<bool()> cancelled;
    // Told why a file of that name is not used.
    std::function<void(const std::string&)> notice;
  };

  // Opens the pack at `path`, or makes one without any layer; a file that is not exactly `layout` is
  // replaced. The folder must exist. kIo, kCancelled.
  [[nodiscard]] static Result<PackWriter> open(const std::filesystem::path& path, const PackHeader& layout,
                                               const Options& options);

  // Takes the file's name away: whoever has it open keeps it, the next open() makes another.
  [[nodiscard]] Result<> discard();
  // Makes the segment absent. Returns the disk space that building it takes: none when it was complete once,
  // because then its bytes stay where they are: another process may be computing with them, and building it
  // again writes the same ones.
  [[nodiscard]] Result<std::uint64_t> clear(const PackSegment& segment);
  // Bytes that may be written before the disk is full.
  [[nodiscard]] Result<std::uint64_t> free_bytes() const;
  // Asks for a segment's space in one piece, for as long as the file system knows how.
  [[nodiscard]] Result<> reserve(const PackSegment& segment);
  // Any bytes inside the segment being built.
  [[nodiscard]] Result<> write(std::uint64_t offset, std::span<const std::uint8_t> bytes);
  // Makes segment `index` of `header`, whose hashes are filled in, present.
  [[nodiscard]] Result<> commit(const PackHeader& header, std::size_t index);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  PackWriter(std::filesystem::path path, Descriptor file) : path_(std::move(path)), file_(std::move(file)) {}
  // An empty Descriptor when another process was first.
  [[nodiscard]] static Result<Descriptor> create(const std::filesystem::path& path, const PackHeader& layout);
  // Until everything written is on the disk; then it leaves the page cache.
  [[nodiscard]] Result<> flush();
  [[nodiscard]] std::unexpected<Error> failed(const char* what, int error) const;

  std::filesystem::path path_;
  Descriptor file_;
  std::uint64_t dirty_begin_ = 0, dirty_end_ = 0;
};

// Takes the lock of a pack without waiting; false when another process has it.
[[nodiscard]] bool try_lock_pack(int descriptor);
// Whether another process has it now. Nobody is kept from taking it.
[[nodiscard]] bool is_being_built(int descriptor);

}  // namespace hearth::residency

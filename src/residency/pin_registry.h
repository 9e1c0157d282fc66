// PinRegistry: how much this process has pinned, told to other hearths of the same user on this machine, and
// what they tell. Pinned pages are clean page cache, which the system counts as free: without this, each
// would take the others' for its own.
//
// One small file for each entry in a folder of the user's, locked as long as its process lives, so that what
// a dead one left is known and removed. Where no such folder can be had, nobody is told anything. Two that
// pin the same pages of one pack both count: less is lent then than could be.
//
// Any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>

#include "base/os_memory.h"

namespace hearth::residency {

class PinRegistry {
 public:
  // In the user's folder in /run/user, else in that for temporary files: the same one for a service and a
  // shell. Created when something is told.
  [[nodiscard]] static std::filesystem::path default_folder();

  // `group`: the control group whose memory the pins are charged to, see memory_groups(); "" for none.
  explicit PinRegistry(std::filesystem::path folder = default_folder(), std::string group = own_group());
  ~PinRegistry();
  PinRegistry(const PinRegistry&) = delete;
  PinRegistry& operator=(const PinRegistry&) = delete;

  // All pins of this entry, but locked ones, which the system knows are used; 0 at first.
  void tell(std::uint64_t pinned_bytes);

  struct Others {
    std::uint64_t all_bytes = 0;
    std::uint64_t group_bytes = 0;  // of these, in the same control group
  };
  [[nodiscard]] Others others() const;
  // `status` without what others pinned.
  [[nodiscard]] MemoryStatus without_others(MemoryStatus status) const;

  [[nodiscard]] static std::string own_group();

 private:
  [[nodiscard]] bool make_entry();

  std::filesystem::path folder_;
  std::string group_;
  mutable std::mutex mutex_;
  std::filesystem::path file_;  // "" before something was told
  int descriptor_ = -1;
  bool gave_up_ = false;
};

}  // namespace hearth::residency

#include "residency/pin_registry.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <format>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hearth::residency {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".pins";

// The contents of an entry: the bytes, then the control group.
struct Entry {
  std::uint64_t bytes = 0;
  std::string group;
};

Entry read_entry(int descriptor) {
  char text[4096];
  const ssize_t n = ::pread(descriptor, text, sizeof text, 0);
  Entry entry;
  if (n < static_cast<ssize_t>(sizeof entry.bytes)) return entry;
  std::memcpy(&entry.bytes, text, sizeof entry.bytes);
  entry.group.assign(text + sizeof entry.bytes, static_cast<std::size_t>(n) - sizeof entry.bytes);
  return entry;
}

// Others could tell anything.
bool is_private(const fs::path& folder) {
  struct stat info{};
  return ::lstat(folder.c_str(), &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == ::geteuid() &&
         (info.st_mode & 0077) == 0;
}

std::uint64_t minus(std::uint64_t from, std::uint64_t bytes) {
  return from == kNoLimit ? from : from - std::min(from, bytes);
}

}  // namespace

fs::path PinRegistry::default_folder() {
  std::error_code error;
  const fs::path runtime = fs::path("/run/user") / std::to_string(::geteuid());
  if (fs::is_directory(runtime, error)) return runtime / "hearth";
  const fs::path temporary = fs::temp_directory_path(error);
  return error ? fs::path() : temporary / std::format("hearth-{}", ::geteuid());
}

std::string PinRegistry::own_group() {
  const auto groups = memory_groups();
  return groups.empty() ? "" : groups.front().folder.string();
}

PinRegistry::PinRegistry(fs::path folder, std::string group)
    : folder_(std::move(folder)), group_(std::move(group)) {}

PinRegistry::~PinRegistry() {
  if (descriptor_ < 0) return;
  ::unlink(file_.c_str());
  ::close(descriptor_);
}

// Under a name that nobody looks at until it is locked: an entry without a lock is a dead process's.
bool PinRegistry::make_entry() {
  if (folder_.empty() || (::mkdir(folder_.c_str(), 0700) != 0 && errno != EEXIST) || !is_private(folder_))
    return false;
  static std::atomic<unsigned> number{0};
  const std::string name = std::format("{}-{}", ::getpid(), ++number);
  const fs::path unlocked = folder_ / (name + ".new"), file = folder_ / (name + std::string(kSuffix));
  descriptor_ = ::open(unlocked.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (descriptor_ < 0) return false;
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 || ::rename(unlocked.c_str(), file.c_str()) != 0) {
    ::unlink(unlocked.c_str());
    ::close(std::exchange(descriptor_, -1));
    return false;
  }
  file_ = file;
  return true;
}

void PinRegistry::tell(std::uint64_t pinned_bytes) {
  const std::lock_guard lock(mutex_);
  if (descriptor_ < 0) {
    if (pinned_bytes == 0 || gave_up_) return;
    gave_up_ = !make_entry();
    if (gave_up_) return;
  }
  std::string text(sizeof pinned_bytes, '\0');
  std::memcpy(text.data(), &pinned_bytes, sizeof pinned_bytes);
  text += group_;
  (void)!::pwrite(descriptor_, text.data(), text.size(), 0);  // a full disk: others know less
}

PinRegistry::Others PinRegistry::others() const {
  Others sum;
  if (!is_private(folder_)) return sum;
  const std::lock_guard lock(mutex_);
  std::error_code error;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    const fs::path& path = it->path();
    if (path.extension() != kSuffix || path == file_) continue;
    const int other = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (other < 0) continue;
    if (::flock(other, LOCK_SH | LOCK_NB) == 0) {
      ::unlink(path.c_str());  // its process has gone
    } else if (const Entry entry = read_entry(other); entry.bytes > 0) {
      sum.all_bytes += entry.bytes;
      if (!group_.empty() && entry.group == group_) sum.group_bytes += entry.bytes;
    }
    ::close(other);
  }
  return sum;
}

MemoryStatus PinRegistry::without_others(MemoryStatus status) const {
  const Others sum = others();
  status.available = minus(status.available, sum.all_bytes);
  status.group_available = minus(status.group_available, sum.group_bytes);
  return status;
}

}  // namespace hearth::residency

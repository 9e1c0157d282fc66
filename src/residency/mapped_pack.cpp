#include "residency/mapped_pack.h"

#include <algorithm>
#include <format>
#include <utility>

#include <sys/stat.h>

#include "base/os_pages.h"

namespace hearth::residency {

bool StoredPart::intact(const std::uint8_t* at) const {
  return std::ranges::all_of(tensors, [&](const PackTensor& tensor) {
    return matches(tensor, {at + (tensor.offset - offset), tensor.bytes});
  });
}

Result<std::unique_ptr<MappedPack>> MappedPack::open(PackFile file) {
  std::unique_ptr<MappedPack> pack(new MappedPack(std::move(file)));
  const auto bytes = pack->file_.bytes();
  pack->state_ = pack->state_now();
  HEARTH_TRY(pack->guard_, FaultGuard::watch(bytes));
  advise_random(bytes);
  drop(bytes, pack->file_.file(), 0);
  return pack;
}

Result<> MappedPack::bring_in(const StoredPart& part, std::stop_token stop) const {
  return populate(bytes(part), std::move(stop));
}

Result<> MappedPack::keep(const StoredPart& part, bool locked, std::stop_token stop) const {
  HEARTH_TRY_VOID(bring_in(part, std::move(stop)));
  HEARTH_TRY_VOID(mark_active(file_.file(), part.offset, part.bytes));
  if (locked) HEARTH_TRY_VOID(lock(bytes(part)));
  return {};
}

void MappedPack::give_back(const StoredPart& part) const {
  drop(bytes(part), file_.file(), part.offset);
}

bool MappedPack::is_resident(const StoredPart& part) const {
  const auto pages = resident_pages(bytes(part));
  return !pages || *pages == count_pages(bytes(part));
}

Result<> MappedPack::still_good(const std::function<Result<>()>& look_through) {
  const auto readable = [&]() -> Result<> {
    if (!guard_->damaged()) return {};
    return fail(ErrorCode::kIo,
                "{}: the file became shorter or unreadable while it was computed with; start again",
                file_.path().string());
  };
  HEARTH_TRY_VOID(readable());
  const State now = state_now();
  if (now == state_) return {};
  HEARTH_TRY_VOID(look_through());
  HEARTH_TRY_VOID(readable());
  state_ = now;
  return {};
}

std::string MappedPack::descriptor_path() const {
  return std::format("/proc/self/fd/{}", file_.descriptor());
}

Error MappedPack::named(Error error) const {
  const std::string name = descriptor_path();
  if (error.message.starts_with(name)) error.message.replace(0, name.size(), file_.path().string());
  return error;
}

Error MappedPack::damaged(model::SegmentId segment) const {
  return {ErrorCode::kInvalidFile,
          std::format(
              "{}: {} has other bytes than when it was packed: the disk or the file is damaged; remove it "
              "(hearth cache rm), it is built again",
              file_.path().string(), segment_text(segment))};
}

MappedPack::State MappedPack::state_now() const {
  struct stat status{};
  if (::fstat(file_.descriptor(), &status) != 0) return {};
  return {status.st_mtim.tv_sec, status.st_mtim.tv_nsec, status.st_size};
}

}  // namespace hearth::residency

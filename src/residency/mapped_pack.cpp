#include "residency/mapped_pack.h"

#include <algorithm>
#include <format>
#include <utility>

#include "base/os_pages.h"
#include "residency/pack_writer.h"

namespace hearth::residency {

bool StoredPart::intact(const std::uint8_t* at) const {
  return std::ranges::all_of(tensors, [&](const PackTensor& tensor) {
    return matches(tensor, {at + (tensor.offset - offset), tensor.bytes});
  });
}

Result<std::unique_ptr<MappedPack>> MappedPack::open(PackFile file) {
  std::unique_ptr<MappedPack> pack(new MappedPack(std::move(file)));
  const auto bytes = pack->file_.bytes();
  pack->state_ = pack->file_.file().state();
  HEARTH_TRY(pack->guard_, FaultGuard::watch(bytes));
  advise_random(bytes);
  drop(bytes, pack->file_.file(), 0);
  return pack;
}

Result<> MappedPack::bring_in(const StoredPart& part, std::stop_token stop) const {
  auto there = populate(bytes(part), std::move(stop));
  if (!there && there.error().code == ErrorCode::kIo)
    return fail(ErrorCode::kIo,
                "{}, bytes {} to {}: {}; if it happens again, remove the pack (hearth cache rm), it is "
                "built again",
                file_.path().string(), part.offset, part.offset + part.bytes, there.error().message);
  return there;
}

Result<> MappedPack::keep(const StoredPart& part, bool locked, std::stop_token stop) const {
  HEARTH_TRY_VOID(bring_in(part, std::move(stop)));
  HEARTH_TRY_VOID(mark_active(file_.file(), part.offset, part.bytes));
  if (locked) HEARTH_TRY_VOID(lock(bytes(part)));
  return {};
}

Result<> MappedPack::may_lock(const StoredPart& part) const {
  return lock_when_read(bytes(part));
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
  const FileState now = file_.file().state();
  if (now == state_ || is_being_built(file_.descriptor())) return {};
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

}  // namespace hearth::residency

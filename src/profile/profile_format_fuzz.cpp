// Any bytes as a kept profile; seeds in src/profile/corpus/profile_format_fuzz. What decodes must encode to
// the same bytes.
#include "profile/profile_format.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto entry = hearth::profile::decode_profile(text);
  if (entry)
    HEARTH_CHECK(hearth::profile::encode(*entry) == text, "encoding is not canonical");
  else
    HEARTH_CHECK(!entry.error().message.empty());
  return 0;
}

// Whether this build has a sanitizer, whose memory and interceptors some tests of the system cannot live
// with. For tests only.
#pragma once

namespace hearth {

#ifdef __has_feature
#define HEARTH_HAS_FEATURE(feature) __has_feature(feature)
#else
#define HEARTH_HAS_FEATURE(feature) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || HEARTH_HAS_FEATURE(address_sanitizer)
inline constexpr bool kAddressSanitized = true;
#else
inline constexpr bool kAddressSanitized = false;
#endif

#if defined(__SANITIZE_THREAD__) || HEARTH_HAS_FEATURE(thread_sanitizer)
inline constexpr bool kThreadSanitized = true;
#else
inline constexpr bool kThreadSanitized = false;
#endif

#undef HEARTH_HAS_FEATURE

inline constexpr bool kSanitized = kAddressSanitized || kThreadSanitized;

}  // namespace hearth

// What the tests of both sessions share: a first moment, and what actions say. For tests only.
#pragma once

#include <chrono>
#include <utility>
#include <variant>
#include <vector>

#include "base/device_key.h"
#include "engine/actions.h"

namespace hearth::engine {

inline constexpr TimePoint kStart{std::chrono::hours(1000)};

template <class T>
std::vector<T> all(const Actions& actions) {
  std::vector<T> found;
  for (const Action& action : actions)
    if (const T* typed = std::get_if<T>(&action)) found.push_back(*typed);
  return found;
}

// Messages of type T, with their receivers.
template <class T>
std::vector<std::pair<DeviceKey, T>> sent(const Actions& actions) {
  std::vector<std::pair<DeviceKey, T>> found;
  for (const Send& send : all<Send>(actions))
    if (const T* typed = std::get_if<T>(&send.message)) found.emplace_back(send.peer, *typed);
  return found;
}

}  // namespace hearth::engine

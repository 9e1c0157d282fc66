// Names of one dash and several letters, as llama.cpp and prima.cpp have them. The command line parser would
// read them as several flags, so that main() puts the long names in their place.
#pragma once

#include <array>
#include <string_view>
#include <utility>

namespace hearth::cli {

inline constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kLongNames = {{
    {"-lw", "--layer-window"},
    {"-ub", "--ubatch-size"},
    {"-ctk", "--cache-type-k"},
    {"-ctv", "--cache-type-v"},
    {"-ngl", "--gpu-layers"},
    {"-dev", "--device"},
}};

}  // namespace hearth::cli

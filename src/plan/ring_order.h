// The cheapest order of a ring's devices: a token passes all of them, the head first, and comes back to it.
//
// The cost is the sum of the hops along the ring; each device counts once, also when plans visit some of them
// more often than others. Links may differ by direction. Up to kMostEnumerated devices every order is tried,
// up to kMostHeldKarp the dynamic program of Held and Karp finds the same; beyond that nearest neighbour and
// 2-opt find a good order, not always the best. The same matrix always gives the same order.
//
// Pure; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace hearth::plan {

inline constexpr std::size_t kMostEnumerated = 8;  // 7! orders
inline constexpr std::size_t kMostHeldKarp = 16;   // 2^15 sets of 15 devices: 5 MB

// [from][to] seconds, >= 0; infinite: no way. Square; the diagonal is not read. [0] is the head.
using HopSeconds = std::vector<std::vector<double>>;
// Each device once, 0 first.
using RingOrder = std::vector<std::uint16_t>;

// Seconds of all hops, with the one from the last device to the first; 0 for one device.
[[nodiscard]] double ring_s(const HopSeconds& hop_s, std::span<const std::uint16_t> order);

// By the method for that many devices, at least one.
[[nodiscard]] RingOrder cheapest_ring(const HopSeconds& hop_s);

// The methods. Exact: all orders, O(M!); O(2^M M^2) time and O(2^M M) memory, at most kMostHeldKarp devices.
[[nodiscard]] RingOrder enumerate_rings(const HopSeconds& hop_s);
[[nodiscard]] RingOrder held_karp_ring(const HopSeconds& hop_s);
// Not exact: nearest neighbour from the head, then stretches of the ring reversed as long as that helps;
// O(M^3) for each time that all are tried.
[[nodiscard]] RingOrder two_opt_ring(const HopSeconds& hop_s);

}  // namespace hearth::plan

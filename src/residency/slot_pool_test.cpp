// The memory that slots have is counted by the system.
#include "residency/slot_pool.h"

#include <cstring>
#include <map>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "base/os_memory.h"
#include "base/test_sanitizer.h"
#include "compute/backend.h"
#include "support/one_device.h"

namespace hearth::residency {
namespace {

using testing::value_of;

constexpr std::uint64_t kMiB = 1U << 20;

struct Pool {
  // For 60 parts of each of the sizes.
  Pool(std::uint64_t limit, std::uint64_t page, const std::vector<std::uint64_t>& sizes) {
    std::vector<std::uint64_t> part_bytes;
    for (int i = 0; i < 60; ++i) part_bytes.insert(part_bytes.end(), sizes.begin(), sizes.end());
    slots = value_of(SlotPool::make({.pinned = {}, .slots_bytes = limit, .page_bytes = page}, part_bytes,
                                    value_of(compute::Backend::cpu(1))->device()));
  }
  // Takes a slot and writes all of it.
  std::optional<std::size_t> fill(std::uint64_t bytes, std::uint8_t value) {
    const auto slot = slots.take(bytes);
    if (slot) std::memset(slots.bytes(*slot).data(), value, bytes);
    return slot;
  }
  SlotPool slots;
};

TEST(SlotPool, LimitsMemoryAndNotParts) {
  Pool pool(10 * 4096, 4096, {4096, 3 * 4096, 8 * 4096});
  std::vector<std::size_t> small;
  for (int i = 0; i < 3; ++i) small.push_back(pool.slots.take(4096).value());
  EXPECT_FALSE(pool.slots.take(8 * 4096)) << "7 pages are left";
  const auto middle = pool.slots.take(3 * 4096);
  ASSERT_TRUE(middle);
  EXPECT_EQ(pool.slots.bytes(*middle).size(), 3U * 4096);
  EXPECT_FALSE(pool.slots.take(8 * 4096));
  for (const std::size_t slot : small) pool.slots.give_back(slot);
  EXPECT_FALSE(pool.slots.take(8 * 4096));
  pool.slots.give_back(*middle);
  EXPECT_TRUE(pool.slots.take(8 * 4096));
}

TEST(SlotPool, APartTakesWholePages) {
  Pool pool(4 * 4096, 4096, {1, 4096, 4097});
  EXPECT_EQ(pool.slots.needed_bytes(4097), 2U * 4096);
  ASSERT_TRUE(pool.slots.take(4097));
  ASSERT_TRUE(pool.slots.take(1));
  ASSERT_TRUE(pool.slots.take(1));
  EXPECT_FALSE(pool.slots.take(1));
  EXPECT_EQ(pool.slots.held_bytes(), 4U * 4096);
}

TEST(SlotPool, NothingStreamedNeedsNoSlots) {
  Pool pool(0, 0, {10, 20});
  EXPECT_EQ(pool.slots.size(), 0U);
  EXPECT_EQ(pool.slots.held_bytes(), 0U);
}

// Parts of any size come and go: what is in use stays as it is, nobody else's, and the system never sees more
// memory than the limit.
TEST(SlotPool, NeverHoldsMoreThanTheLimitWhateverComes) {
  struct Case {
    std::uint64_t page, limit;
    std::vector<std::uint64_t> sizes;
  };
  for (const Case& c : {Case{4096, 300 * 4096, {4096, 5 * 4096, 20 * 4096, 20 * 4096 - 7, 90 * 4096, 100}},
                        Case{2 * kMiB, 40 * kMiB, {3 * kMiB, 8 * kMiB, 13 * kMiB, 9 * kMiB}}}) {
    const std::uint64_t before = process_memory().anonymous;
    Pool pool(c.limit, c.page, c.sizes);
    std::mt19937 random(11);  // NOLINT(cert-msc32-c,cert-msc51-cpp): the same in each run
    struct Taken {
      std::uint64_t bytes;
      std::uint8_t value;
    };
    std::map<std::size_t, Taken> taken;
    std::uint64_t needed = 0, refused = 0;
    const auto let_go = [&] {
      auto at = taken.begin();
      std::advance(at, random() % taken.size());
      const auto bytes = pool.slots.bytes(at->first);
      ASSERT_EQ(bytes.size(), at->second.bytes);
      for (const std::uint8_t byte : {bytes.front(), bytes[bytes.size() / 2], bytes.back()})
        EXPECT_EQ(byte, at->second.value);
      needed -= pool.slots.needed_bytes(at->second.bytes);
      pool.slots.give_back(at->first);
      taken.erase(at);
    };
    for (int i = 0; i < 400; ++i) {
      const std::uint64_t bytes = c.sizes[random() % c.sizes.size()];
      const auto value = static_cast<std::uint8_t>(i % 255 + 1);
      if (const auto slot = pool.fill(bytes, value)) {
        ASSERT_FALSE(taken.contains(*slot));
        taken[*slot] = {bytes, value};
        needed += pool.slots.needed_bytes(bytes);
      } else {
        EXPECT_GT(needed + pool.slots.needed_bytes(bytes), c.limit) << "there was room";
        ++refused;
        let_go();
      }
      EXPECT_LE(pool.slots.held_bytes(), c.limit);
      if (!taken.empty() && random() % 3 == 0) let_go();
    }
    EXPECT_GT(refused, 10U);
    // Some memory of the test itself. A sanitizer adds its own to it.
    if (!kSanitized) {
      EXPECT_LE(process_memory().anonymous, before + c.limit + 2 * kMiB);
    }
    while (!taken.empty()) let_go();
  }
}

}  // namespace
}  // namespace hearth::residency

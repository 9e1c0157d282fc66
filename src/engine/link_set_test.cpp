#include "engine/link_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/test_plan.h"

namespace hearth::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using namespace std::chrono_literals;

const TimePoint kStart{1000h};

// What the actions ask for, in order: '+' connects, '-' disconnects, '~' disconnects after flushing.
std::string asked(Actions& actions) {
  std::string text;
  for (const Action& action : actions) {
    if (std::holds_alternative<Connect>(action)) text += '+';
    if (const auto* closed = std::get_if<Disconnect>(&action)) text += closed->flush ? '~' : '-';
  }
  actions.clear();
  return text;
}

class Links : public ::testing::Test {
 protected:
  void want(const wire::Address& address, Milliseconds deadline = 1000ms) {
    links.want(test_key(1), address, kStart + deadline, actions);
  }
  LinkSet links{5000ms, 200ms};
  Actions actions;
};

TEST_F(Links, ConnectsOnce) {
  want(test_address(1));
  EXPECT_EQ(asked(actions), "+");
  want(test_address(1));
  EXPECT_EQ(asked(actions), "");
  EXPECT_FALSE(links.is_up(test_key(1)));
  EXPECT_TRUE(links.on_up(test_key(1)));
  EXPECT_FALSE(links.on_up(test_key(1)));
  EXPECT_TRUE(links.is_up(test_key(1)));
  EXPECT_THAT(links.up(), ElementsAre(test_key(1)));
  want(test_address(1));
  EXPECT_EQ(asked(actions), "");
  EXPECT_TRUE(links.is_up(test_key(1)));
}

TEST_F(Links, TriesAgainUntilTheDeadline) {
  want(test_address(1));
  (void)asked(actions);
  EXPECT_EQ(links.on_gone(test_key(1), kStart + 100ms), LinkSet::Gone::kRetry);
  EXPECT_EQ(links.on_gone(test_key(1), kStart + 100ms), LinkSet::Gone::kUnknown);  // there is none now
  links.tick(kStart + 200ms, actions);
  EXPECT_EQ(asked(actions), "");
  links.tick(kStart + 300ms, actions);
  EXPECT_EQ(asked(actions), "+");
  want(test_address(1), 2000ms);  // a later deadline counts
  EXPECT_EQ(links.on_gone(test_key(1), kStart + 1500ms), LinkSet::Gone::kRetry);
  links.tick(kStart + 1900ms, actions);
  EXPECT_EQ(asked(actions), "+");
  EXPECT_EQ(links.on_gone(test_key(1), kStart + 1900ms), LinkSet::Gone::kUnreachable);
  EXPECT_FALSE(links.wants(test_key(1)));
}

TEST_F(Links, OnlyASettledLinkIsLost) {
  want(test_address(1));
  (void)links.on_up(test_key(1));
  EXPECT_EQ(links.on_gone(test_key(1), kStart), LinkSet::Gone::kRetry);
  EXPECT_FALSE(links.is_up(test_key(1)));
  links.tick(kStart + 200ms, actions);
  (void)links.on_up(test_key(1));
  links.settle(test_key(1));
  EXPECT_EQ(links.on_gone(test_key(1), kStart), LinkSet::Gone::kLost);
  EXPECT_EQ(links.on_gone(test_key(1), kStart), LinkSet::Gone::kUnknown);
  EXPECT_THAT(links.wanted(), IsEmpty());
}

TEST_F(Links, WidensAControlLaneAndMovesAFullLink) {
  auto control = test_address(1);
  control.data_port = 0;
  want(control);
  (void)links.on_up(test_key(1));
  (void)asked(actions);
  want(test_address(1));
  EXPECT_EQ(asked(actions), "+");
  EXPECT_FALSE(links.is_up(test_key(1)));
  (void)links.on_up(test_key(1));
  want(test_address(2));
  EXPECT_EQ(asked(actions), "-+");
}

TEST_F(Links, ClosesOnlyWhatIsThere) {
  want(test_address(1));
  links.want(test_key(2), test_address(2), kStart + 1000ms, actions);
  (void)asked(actions);
  EXPECT_EQ(links.on_gone(test_key(1), kStart), LinkSet::Gone::kRetry);
  links.drop_all(true, actions);
  EXPECT_EQ(asked(actions), "~");
  links.drop(test_key(3), false, actions);
  links.tick(kStart + 10s, actions);
  EXPECT_EQ(asked(actions), "");
}

}  // namespace
}  // namespace hearth::engine

#include "engine/plan_rules.h"

#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/handshake.h"
#include "engine/test_plan.h"

namespace hearth::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(PlanRules, AcceptsARing) {
  EXPECT_TRUE(validate_prepare(test_plan(1, 1, {0})));
  EXPECT_TRUE(validate_prepare(test_plan(7, 4, {0, 1, 2, 3, 0, 1, 2, 3})));
  EXPECT_TRUE(validate_prepare(test_plan(1, 3, {1, 1})));  // members without a step are fine
}

TEST(PlanRules, NamesWhatIsWrong) {
  struct Case {
    std::function<void(wire::Prepare&)> spoil;
    std::string says;
  };
  const std::vector<Case> cases{
      {[](auto& p) { p.epoch = 0; }, "epoch 0"},
      {[](auto& p) { p.members.clear(); }, "0 members"},
      {[](auto& p) { p.members.resize(65); }, "65 members, expected 1 to 64"},
      {[](auto& p) { p.members[2].key = p.members[0].key; }, "twice, the second time for worker2"},
      {[](auto& p) { p.members[2].name = p.members[1].name; }, "two members called worker1"},
      {[](auto& p) { p.members[1].address.host.clear(); }, "worker1 is at \"\""},
      {[](auto& p) { p.members[1].address.data_port = 0; }, "ports 7001 and 0"},
      {[](auto& p) { p.steps.clear(); }, "0 steps"},
      {[](auto& p) { p.steps[1].device = 3; }, "step 1 of the plan is on device 3, there are 3"},
      {[](auto& p) { p.steps[1].layer_end = p.steps[1].layer_begin; }, "layers [1, 1)"},
      {[](auto& p) { p.steps[1].layer_begin = 0; }, "expected it to begin at 1"},
      {[](auto& p) { p.steps[2].layer_begin = 3; }, "expected it to begin at 2"},
      {[](auto& p) { p.steps[3].layer_end = 9; }, "layers [3, 9)"},
      {[](auto& p) { p.steps.pop_back(); }, "end at layer 3, the model has 4"},
      {[](auto& p) { p.n_layer = 0; }, "0 layers"},
      {[](auto& p) { p.n_layer = 5000; }, "5000 layers"},
      {[](auto& p) { p.n_ctx = 0; }, "a context of 0"},
      {[](auto& p) { p.n_ctx = 0xffffffff; }, "a context of 4294967295"},
      {[](auto& p) { p.n_ubatch = 0; }, "batches of 0"},
      {[](auto& p) { p.n_ubatch = 100'000; }, "batches of 100000"},
  };
  for (const Case& broken : cases) {
    auto plan = test_plan(1, 3, {0, 1, 2, 1});
    broken.spoil(plan);
    const auto result = validate_prepare(plan);
    ASSERT_FALSE(result) << broken.says;
    EXPECT_EQ(result.error().code, ErrorCode::kProtocol);
    EXPECT_THAT(result.error().message, HasSubstr(broken.says));
  }
}

TEST(PlanRules, KnowsWhoSendsToWhom) {
  const auto plan = test_plan(1, 4, {0, 1, 2, 0, 1, 2});
  EXPECT_THAT(receivers_of(plan, 0), ElementsAre(1));
  EXPECT_THAT(senders_to(plan, 0), ElementsAre(2));
  EXPECT_THAT(receivers_of(plan, 2), ElementsAre(0));
  EXPECT_THAT(senders_to(plan, 2), ElementsAre(1));
  EXPECT_THAT(receivers_of(plan, 3), IsEmpty());
  EXPECT_THAT(senders_to(plan, 3), IsEmpty());
  const auto back_and_forth = test_plan(1, 3, {1, 1, 2, 1});
  EXPECT_THAT(receivers_of(back_and_forth, 0), ElementsAre(1));
  EXPECT_THAT(receivers_of(back_and_forth, 1), ElementsAre(0, 2));
  EXPECT_THAT(senders_to(back_and_forth, 1), ElementsAre(0, 2));
  EXPECT_THAT(senders_to(back_and_forth, 0), ElementsAre(1));
  EXPECT_THAT(receivers_of(test_plan(1, 1, {0, 0}), 0), IsEmpty());
  EXPECT_EQ(member_index(plan, test_key(2)), 2);
  EXPECT_EQ(member_index(plan, test_key(9)), std::nullopt);
}

TEST(PlanRules, MakesTheMessageOfAPlan) {
  const plan::Plan plan{.n_layer = 5, .devices = {"head", "worker1"}, .steps = {{0, {0, 2}}, {1, {2, 5}}}};
  const std::vector<wire::Member> members{{"head", test_key(0), {}},
                                          {"worker1", test_key(1), test_address(1)}};
  const auto message =
      make_prepare(4, test_model(), plan, {.n_ctx = 99, .n_ubatch = 7, .repack = false}, members);
  ASSERT_TRUE(message) << message.error().message;
  EXPECT_EQ(message->epoch, 4u);
  EXPECT_EQ(message->n_ctx, 99u);
  EXPECT_EQ(message->n_ubatch, 7u);
  EXPECT_FALSE(message->repack);
  EXPECT_THAT(message->steps, ElementsAre(wire::StepSpec{0, 0, 2}, wire::StepSpec{1, 2, 5}));
  EXPECT_EQ(describe_device(*message, 1), "layers 2-4 of 5 (context 99)");
  EXPECT_EQ(describe_device(test_plan(1, 2, {0, 1, 0}), 0), "layers 0, 2 of 3 (context 32)");
  EXPECT_EQ(describe_device(test_plan(1, 2, {0}), 1), "no layers of 1 (context 32)");
  const auto broken = make_prepare(4, test_model(), plan, {}, {});
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code, ErrorCode::kInvalidArgument);
}

TEST(Handshake, NamesBothVersionsAndBothModels) {
  const Party ours{.name = "desk", .version = "0.1.0", .model = test_model()};
  EXPECT_TRUE(check_party({.name = "kitchen", .minor = 99, .version = "0.9", .model = test_model()}, ours));
  const auto version = check_party(
      {.name = "kitchen", .major = 2, .minor = 5, .version = "3.0.0", .model = test_model()}, ours);
  ASSERT_FALSE(version);
  EXPECT_EQ(version.error().code, ErrorCode::kVersionMismatch);
  EXPECT_THAT(version.error().message,
              HasSubstr("kitchen speaks protocol 2.5 (hearth 3.0.0), desk speaks 1.0 (hearth 0.1.0)"));
  wire::ModelId other{};
  other[0] = 0x01;
  other[3] = 0xef;
  const auto model = check_party({.name = "kitchen", .version = "0.1.0", .model = other}, ours);
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code, ErrorCode::kModelMismatch);
  EXPECT_THAT(model.error().message, HasSubstr("kitchen has the model 010000ef, desk has abababab"));
  EXPECT_EQ(describe_peer("kitchen", {"10.0.0.7", 7000, 7001}), "kitchen (10.0.0.7:7000)");
  EXPECT_EQ(describe_peer("kitchen", {"fe80::1", 7000, 7001}), "kitchen ([fe80::1]:7000)");
}

}  // namespace
}  // namespace hearth::engine

#include "node/engine_loop.h"

#include <type_traits>

namespace hearth::node {

void run_engine(Channel<EngineInput>& inputs, Executor& executor, Generator* generator,
                const EngineLoopHooks& hooks, std::uint64_t memory_limit) {
  const auto check = [&](const Executor::Outcome& outcome) {
    if (outcome) return;
    executor.free(outcome.error().epoch);
    if (generator != nullptr) generator->fail_all(outcome.error().error);
    hooks.broken(outcome.error().epoch, outcome.error().error);
  };
  bool more = false;
  while (true) {
    auto input = more ? inputs.try_receive() : inputs.receive();
    if (!input && (!more || inputs.closed())) return;
    if (input)
      std::visit(
          [&](auto& in) {
            using In = std::decay_t<decltype(in)>;
            if constexpr (std::is_same_v<In, LoadPlan>) {
              auto report = executor.load(in.plan, in.device,
                                          {.repack = in.plan.repack,
                                           .anonymous_limit = memory_limit,
                                           .progress = hooks.load_progress});
              hooks.loaded(in.plan.epoch, std::move(report));
            } else if constexpr (std::is_same_v<In, FreePlan>) {
              executor.free(in.epoch);
              if (hooks.freed) hooks.freed(in.epoch);
            } else if constexpr (std::is_same_v<In, CancelCompute>) {
              executor.cancel(in.epoch, in.first_batch, in.last_batch);
            } else if constexpr (std::is_same_v<In, FrameArrived>) {
              check(executor.on_frame(in.from, in.bytes));
            } else if constexpr (std::is_same_v<In, EpochActive>) {
              if (generator != nullptr) generator->activate(in.epoch);
            } else if constexpr (std::is_same_v<In, RingFailed>) {
              if (generator != nullptr) generator->fail_all(in.error);
            } else if constexpr (std::is_same_v<In, Submit>) {
              if (generator != nullptr) generator->submit(std::move(in.request));
            } else if constexpr (std::is_same_v<In, StopRequest>) {
              if (generator != nullptr) generator->stop(in.request);
            }
          },
          *input);
    if (generator == nullptr) continue;
    const auto pumped = generator->pump();
    more = pumped.value_or(false);
    if (!pumped) check(std::unexpected(pumped.error()));
  }
}

}  // namespace hearth::node

// EngineLoop: the engine thread of a node: the one thread that computes. Takes EngineInputs in order until
// its channel is closed.
#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "node/engine_inbox.h"
#include "node/executor.h"
#include "node/generator.h"
#include "node/recalls.h"

namespace hearth::node {

struct EngineLoopHooks {
  // Bytes of memory that an epoch may take; asked before each is loaded.
  std::function<std::uint64_t()> memory;
  std::function<void(std::uint32_t epoch, Result<engine::LoadReport>)> loaded;
  std::function<void(std::uint32_t epoch, Error)> broken;
  residency::LoadProgress load_progress;           // may be empty
  std::function<void(std::uint32_t epoch)> freed;  // may be empty
};

// Runs on the calling thread. `generator` is null on a worker.
void run_engine(EngineInbox& inputs, Recalls& recalls, Executor& executor, Generator* generator,
                const EngineLoopHooks& hooks);

}  // namespace hearth::node

// Worker: this device lends its memory and cores to a head: waits for it, loads what its plans say, computes,
// and waits again when the head is gone.
//
// Owns a control thread and an engine thread. Destruction says goodbye and frees everything.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/device_key.h"
#include "base/result.h"
#include "engine/actions.h"
#include "engine/liveness.h"
#include "net/keys.h"
#include "node/gpu_share.h"
#include "residency/open_weights.h"

namespace hearth::node {

struct WorkerNodeOptions {
  std::string model_path;
  std::string name;
  std::string host = "127.0.0.1";  // address to bind
  std::uint16_t control_port = 0;  // 0: any
  std::uint16_t data_port = 0;
  std::vector<DeviceKey> heads;  // who may lead this device
  std::uint32_t n_threads = 1;
  std::uint64_t memory_bytes = 0;  // what it lends; 0: what is available
  residency::WeightOptions weights;
  GpuOptions gpu;
  engine::LivenessOptions liveness;
  std::function<void(engine::LogLevel, const std::string&)> log;
  std::function<bool()> interrupted;  // asked while the device is measured: true ends the start, kCancelled
};

class WorkerNode {
 public:
  // Opens the model, binds the sockets, starts. Errors of ModelFile::open, net::make_zmq_hub, Backend::cpu.
  [[nodiscard]] static Result<std::unique_ptr<WorkerNode>> start(const WorkerNodeOptions& options,
                                                                 net::KeyPair key);
  ~WorkerNode();

  [[nodiscard]] const DeviceKey& key() const;
  [[nodiscard]] std::uint16_t control_port() const;

 private:
  struct Impl;
  explicit WorkerNode(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::node

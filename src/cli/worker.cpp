#include "node/worker.h"

#include <cstdio>
#include <memory>
#include <string>

#include "base/os_process.h"
#include "cli/console.h"
#include "cli/verbs.h"

namespace hearth::cli {
namespace {

struct Flags {
  ModelFlags model;
  std::string key_file;
  std::vector<std::string> heads;
  std::string listen = "127.0.0.1";
  std::string name;
  bool verbose = false;
  bool quiet = false;
};

int run(const Flags& flags) {
  flags.model.set_priority();
  node::WorkerNodeOptions options;
  options.model_path = flags.model.model;
  options.n_threads = flags.model.threads();
  options.name = flags.name.empty() ? host_name() : flags.name;
  const auto memory = flags.model.memory_bytes();
  if (!memory) return report(memory.error());
  options.memory_bytes = *memory;
  auto gpu = flags.model.gpu_options();
  if (!gpu) return report(gpu.error());
  options.gpu = *std::move(gpu);
  const auto listen = parse_host_port(flags.listen, 0);
  if (!listen) return report(listen.error());
  options.host = listen->host;
  options.control_port = listen->port;
  for (const std::string& head : flags.heads) {
    auto key = DeviceKey::from_hex(head);
    if (!key) return report(key.error());
    options.heads.push_back(*key);
  }
  const auto least = flags.verbose ? engine::LogLevel::kDebug
                     : flags.quiet ? engine::LogLevel::kError
                                   : engine::LogLevel::kInfo;
  options.log = [least](engine::LogLevel level, const std::string& text) { print_log(level, text, least); };
  options.weights = flags.model.weights(
      [log = options.log](const std::string& text) { log(engine::LogLevel::kInfo, text); });
  auto key = net::KeyPair::load(flags.key_file);
  if (!key) return report(key.error());
  count_interrupts();
  options.interrupted = [] { return interrupts() > 0; };
  const auto worker = node::WorkerNode::start(options, std::move(*key));
  if (!worker) return report(worker.error());
  const std::string host =
      listen->host.find(':') == std::string::npos ? listen->host : "[" + listen->host + "]";
  std::printf("%s@%s:%u\n", (*worker)->key().hex().c_str(), host.c_str(), (*worker)->control_port());
  std::fflush(stdout);
  wait_for_interrupt();
  return kOk;
}

}  // namespace

void add_worker(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand("worker", "lend this device's memory and cores to a head");
  const auto flags = std::make_shared<Flags>();
  flags->model.add(*verb);
  flags->model.add_computing(*verb);
  verb->add_option("--key", flags->key_file, "this device's key file (hearth keygen)")
      ->type_name("FILE")
      ->required();
  verb->add_option("--allow", flags->heads, "public key of a head that may lead this device; may be repeated")
      ->type_name("KEY")
      ->required();
  verb->add_option(
          "--listen", flags->listen,
          "where heads reach this device (default: 127.0.0.1, from this device only); with 0.0.0.0, every "
          "interface, put a real address into the printed line")
      ->type_name("HOST[:PORT]")
      ->capture_default_str();
  verb->add_option("--name", flags->name, "how this device is called in the ring (default: its host name)")
      ->type_name("NAME");
  verb->add_flag("-v,--verbose", flags->verbose, "log more");
  verb->add_flag("-q,--quiet", flags->quiet, "log errors only");
  verb->footer(
      "Prints KEY@HOST:PORT, which `hearth run --worker` takes, and waits until it is interrupted. When the "
      "head\n"
      "goes away it frees everything and waits for one again.\n"
      "Example: hearth worker -m model.gguf --key desk.key --allow HEADKEY --listen 192.168.1.7:7700");
  verb->callback([flags, &exit] { exit = run(*flags); });
}

}  // namespace hearth::cli

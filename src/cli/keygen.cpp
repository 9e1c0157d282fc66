#include <cstdio>
#include <memory>
#include <string>

#include "cli/console.h"
#include "cli/verbs.h"
#include "net/keys.h"

namespace hearth::cli {

void add_keygen(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand("keygen", "make this device's identity: a key file");
  const auto path = std::make_shared<std::string>();
  verb->add_option("FILE", *path, "where to write it; an existing file is never overwritten")
      ->type_name("FILE")
      ->required();
  verb->footer(
      "Prints the public key, which other devices need. The file itself stays on this device.\n"
      "Example: hearth keygen laptop.key");
  verb->callback([path, &exit] {
    const auto key = net::KeyPair::generate();
    if (!key) {
      exit = report(key.error());
      return;
    }
    if (const auto saved = key->save(*path); !saved) {
      exit = report(saved.error());
      return;
    }
    std::printf("%s\n", key->public_key().hex().c_str());
  });
}

}  // namespace hearth::cli

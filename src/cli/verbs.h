// The verbs of the program: each adds its subcommand, with flags and help, and stores its exit code when it
// ran.
#pragma once

#include <CLI/CLI.hpp>

namespace hearth::cli {

void add_run(CLI::App& app, int& exit);
void add_worker(CLI::App& app, int& exit);
void add_demo(CLI::App& app, int& exit);
void add_show(CLI::App& app, int& exit);
void add_bench(CLI::App& app, int& exit);
void add_pack(CLI::App& app, int& exit);
void add_plan(CLI::App& app, int& exit);
void add_profile(CLI::App& app, int& exit);
void add_cache(CLI::App& app, int& exit);
void add_keygen(CLI::App& app, int& exit);
// Of all verbs that were added: `app` is the program.
void add_completion(CLI::App& app, int& exit);
void add_man(CLI::App& app, int& exit);

}  // namespace hearth::cli

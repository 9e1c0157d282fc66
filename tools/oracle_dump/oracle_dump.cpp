// oracle-dump: prints the graph that libllama evaluates for one decode of a GGUF model.
//
// One line per node in evaluation order: index, operation, name, type, shape, strides where not contiguous,
// operation parameters, and the sources with their shapes and buffers. It is the reference for the graphs of
// src/compute: two graphs with the same lines give the same bits. With --values each node is computed alone
// and a hash of its bytes and its first values are printed, to find the first node that differs.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <format>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <ggml-backend.h>
#include <ggml.h>
#include <llama.h>

namespace {

struct ModelDeleter {
  void operator()(llama_model* model) const { llama_model_free(model); }
};
struct ContextDeleter {
  void operator()(llama_context* context) const { llama_free(context); }
};

struct Options {
  std::string model;
  std::string out = "-";
  std::uint32_t n_ctx = 256;
  std::uint32_t n_batch = 512;
  std::uint32_t n_past = 0;
  std::uint32_t n_tokens = 17;
  std::uint32_t n_outputs = 1;
  std::uint32_t n_seq = 1;
  std::int32_t n_threads = 1;
  int flash = -1;
  bool unified = false;
  bool no_repack = false;
  bool f32_kv = false;
  bool values = false;
  bool log = false;
};

// What the evaluation callback writes to; silent while `out` is null.
struct Recorder {
  std::ostream* out = nullptr;
  bool values = false;
  int index = 0;
};

std::string shape(const ggml_tensor* t) {
  return std::format("[{},{},{},{}]", t->ne[0], t->ne[1], t->ne[2], t->ne[3]);
}

std::string strides(const ggml_tensor* t) {
  if (ggml_is_contiguous(t)) return "";
  return std::format(" nb{{{},{},{},{}}}", t->nb[0], t->nb[1], t->nb[2], t->nb[3]);
}

std::string view(const ggml_tensor* t) {
  if (t->view_src == nullptr) return "";
  return std::format(" view_of {}+{}", t->view_src->name, t->view_offs);
}

// Integers as they are; what looks like a float of ordinary size also as a float.
std::string parameters(const ggml_tensor* t) {
  constexpr int kParams = GGML_MAX_OP_PARAMS / static_cast<int>(sizeof(std::int32_t));
  int last = kParams - 1;
  while (last >= 0 && t->op_params[last] == 0) --last;
  if (last < 0) return "";
  std::string text = " params(";
  for (int i = 0; i <= last; ++i) {
    const std::int32_t raw = t->op_params[i];
    float real = 0;
    std::memcpy(&real, &raw, sizeof real);
    const bool as_float = raw > 0x30000000 || raw < -0x40000000;
    text += as_float ? std::format("{}f", real) : std::format("{}", raw);
    if (i < last) text += ",";
  }
  return text + ")";
}

std::string buffer_name(const ggml_tensor* t) {
  const ggml_backend_buffer_t buffer = t->view_src != nullptr ? t->view_src->buffer : t->buffer;
  return buffer == nullptr ? "no buffer" : ggml_backend_buffer_name(buffer);
}

std::string sources(const ggml_tensor* t) {
  std::string text;
  for (int i = 0; i < GGML_MAX_SRC; ++i) {
    const ggml_tensor* s = t->src[i];
    if (s == nullptr) continue;
    text += std::format("\n        src{} {} {} {}{}{} {} <{}>", i, s->name, ggml_type_name(s->type), shape(s),
                        strides(s), view(s), ggml_op_name(s->op), buffer_name(s));
  }
  return text;
}

std::string value_line(const ggml_tensor* t) {
  std::vector<std::uint8_t> bytes(ggml_nbytes(t));
  ggml_backend_tensor_get(t, bytes.data(), 0, bytes.size());
  std::uint64_t hash = 1469598103934665603ull;
  for (const std::uint8_t b : bytes) hash = (hash ^ b) * 1099511628211ull;
  std::string text = std::format("\n        hash {:016x}", hash);
  if (t->type == GGML_TYPE_F32) {
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
    for (std::size_t i = 0; i < std::min<std::size_t>(4, values.size()); ++i)
      text += std::format(" {:.9g}", values[i]);
    float largest = 0;
    for (const float x : values) largest = std::isnan(x) ? x : std::max(largest, std::abs(x));
    text += std::format(" … largest {:.4g}", largest);
  }
  return text;
}

bool on_node(ggml_tensor* t, bool ask, void* user) {
  auto* recorder = static_cast<Recorder*>(user);
  if (recorder->out == nullptr) return !ask;
  if (ask && recorder->values) return true;
  *recorder->out << std::format("{:4} {} {} {} {}{}{}{}{}", recorder->index++, ggml_op_desc(t), t->name,
                                ggml_type_name(t->type), shape(t), strides(t), view(t), parameters(t),
                                sources(t))
                 << (recorder->values ? value_line(t) : "") << "\n";
  return !ask;
}

// Decodes n tokens at [first, first + n) of every sequence in one batch; the last n_outputs of each are
// output.
bool decode(llama_context* context, std::uint32_t first, std::uint32_t n, std::uint32_t n_seq,
            std::uint32_t n_outputs) {
  const std::int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context)));
  llama_batch batch = llama_batch_init(static_cast<std::int32_t>(n * n_seq), 0, 1);
  for (std::uint32_t seq = 0; seq < n_seq; ++seq) {
    for (std::uint32_t i = 0; i < n; ++i) {
      const std::int32_t k = batch.n_tokens++;
      batch.token[k] =
          static_cast<llama_token>((7 + 31 * (first + i) + 5 * seq) % static_cast<std::uint32_t>(n_vocab));
      batch.pos[k] = static_cast<llama_pos>(first + i);
      batch.n_seq_id[k] = 1;
      batch.seq_id[k][0] = static_cast<llama_seq_id>(seq);
      batch.logits[k] = i + n_outputs >= n ? 1 : 0;
    }
  }
  const std::int32_t status = llama_decode(context, batch);
  llama_synchronize(context);
  llama_batch_free(batch);
  return status == 0;
}

void quiet(ggml_log_level, const char*, void*) {}

int dump(const Options& options) {
  if (!options.log) llama_log_set(quiet, nullptr);
  ggml_backend_load_all();
  llama_backend_init();

  ggml_backend_dev_t no_devices[] = {nullptr};
  llama_model_params model_params = llama_model_default_params();
  model_params.devices = no_devices;
  model_params.n_gpu_layers = 0;
  model_params.use_extra_bufts = !options.no_repack;
  const std::unique_ptr<llama_model, ModelDeleter> model(
      llama_model_load_from_file(options.model.c_str(), model_params));
  if (!model) {
    std::cerr << std::format("oracle-dump: libllama cannot load {} (--log shows why)\n", options.model);
    return 1;
  }

  Recorder recorder;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = options.n_ctx;
  params.n_batch = params.n_ubatch = options.n_batch;
  params.n_seq_max = options.n_seq;
  params.n_threads = params.n_threads_batch = options.n_threads;
  params.flash_attn_type = static_cast<llama_flash_attn_type>(options.flash);
  params.type_k = params.type_v = options.f32_kv ? GGML_TYPE_F32 : GGML_TYPE_F16;
  params.kv_unified = options.unified;
  params.op_offload = false;
  params.cb_eval = on_node;
  params.cb_eval_user_data = &recorder;
  const std::unique_ptr<llama_context, ContextDeleter> context(llama_init_from_model(model.get(), params));
  if (!context) {
    std::cerr << "oracle-dump: libllama cannot make a context (--log shows why)\n";
    return 1;
  }

  std::uint32_t done = 0;
  while (done < options.n_past) {
    const std::uint32_t n = std::min(options.n_past - done, options.n_batch / options.n_seq);
    if (!decode(context.get(), done, n, options.n_seq, 1)) return 1;
    done += n;
  }

  std::ofstream file;
  if (options.out != "-") file.open(options.out);
  recorder.out = options.out == "-" ? &std::cout : &file;
  recorder.values = options.values;
  *recorder.out << std::format(
      "# {}: n_past {}, tokens {}, sequences {}, outputs {}, n_ctx {} (given {}), n_batch {}, threads {}, "
      "repack {}, "
      "unified {}\n",
      options.model.substr(options.model.rfind('/') + 1), options.n_past, options.n_tokens, options.n_seq,
      options.n_outputs, llama_n_ctx(context.get()), options.n_ctx, options.n_batch, options.n_threads,
      !options.no_repack, options.unified);
  if (!decode(context.get(), done, options.n_tokens, options.n_seq, options.n_outputs)) {
    std::cerr << "oracle-dump: llama_decode failed\n";
    return 1;
  }
  return recorder.out->good() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{
      "Prints the graph libllama evaluates for one decode.\n"
      "Example: oracle-dump -m models/ember-f16.gguf --past 16 --tokens 1"};
  app.add_option("-m,--model", options.model, "GGUF file")->required();
  app.add_option("-o,--out", options.out, "where to write, - for stdout");
  app.add_option("-c,--ctx", options.n_ctx, "context cells");
  app.add_option("-b,--batch", options.n_batch, "n_batch and n_ubatch");
  app.add_option("--past", options.n_past, "tokens decoded before, not shown");
  app.add_option("--tokens", options.n_tokens, "tokens of each sequence in the decode that is shown");
  app.add_option("--outputs", options.n_outputs, "last tokens of each sequence that are output");
  app.add_option("--sequences", options.n_seq, "sequences in the batch");
  app.add_option("-t,--threads", options.n_threads, "threads");
  app.add_option("--flash", options.flash, "flash attention: -1 auto, 0 off, 1 on");
  app.add_flag("--unified", options.unified, "one KV buffer for all sequences");
  app.add_flag("--no-repack", options.no_repack, "plain weights (use_extra_bufts=false)");
  app.add_flag("--f32-kv", options.f32_kv, "f32 KV cache instead of f16");
  app.add_flag("--values", options.values, "compute node by node and print a hash and the first values");
  app.add_flag("--log", options.log, "show the log of libllama");
  CLI11_PARSE(app, argc, argv);
  try {
    return dump(options);
  } catch (const std::exception& e) {
    std::cerr << "oracle-dump: " << e.what() << "\n";
    return 1;
  }
}

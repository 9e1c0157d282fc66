#include "oracle_lib/oracle.h"

#include <algorithm>
#include <chrono>
#include <format>
#include <mutex>
#include <utility>

#include <ggml-backend.h>
#include <ggml.h>
#include <llama.h>

namespace hearth::oracle {
namespace {

// The last error libllama logged; its log callback is one per process.
class ErrorLog {
 public:
  static ErrorLog& instance() {
    static ErrorLog log;
    return log;
  }
  void add(std::string_view text) {
    const std::lock_guard lock(mutex_);
    last_ = text.substr(0, text.find_last_not_of("\r\n ") + 1);
  }
  [[nodiscard]] std::string take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(last_, {});
  }

 private:
  std::mutex mutex_;
  std::string last_;
};

void on_log(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR) ErrorLog::instance().add(text);
}

void initialize_once() {
  static std::once_flag once;
  std::call_once(once, [] {
    llama_log_set(on_log, nullptr);
    // The plugins register themselves anew at each load: only when nobody in this process has loaded them.
    if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) == nullptr) ggml_backend_load_all();
    llama_backend_init();
  });
}

struct ContextDeleter {
  void operator()(llama_context* context) const { llama_free(context); }
};

llama_flash_attn_type to_llama(Flash flash) {
  switch (flash) {
    case Flash::kAuto:
      return LLAMA_FLASH_ATTN_TYPE_AUTO;
    case Flash::kOff:
      return LLAMA_FLASH_ATTN_TYPE_DISABLED;
    case Flash::kOn:
      return LLAMA_FLASH_ATTN_TYPE_ENABLED;
  }
  return LLAMA_FLASH_ATTN_TYPE_AUTO;
}

ggml_type to_ggml(wire::KvType type) {
  for (int i = 0; i < GGML_TYPE_COUNT; ++i)
    if (const char* name = ggml_type_name(static_cast<ggml_type>(i));
        name != nullptr && name == wire::traits(type).name)
      return static_cast<ggml_type>(i);
  HEARTH_CHECK(false, "ggml has no type of this name");
}

bool observe(ggml_tensor* tensor, bool ask, void* user) {
  const auto& observer = *static_cast<const NodeObserver*>(user);
  if (ask) return tensor->type == GGML_TYPE_F32 && ggml_is_contiguous(tensor) && observer.wants(tensor->name);
  std::vector<float> values(static_cast<std::size_t>(ggml_nelements(tensor)));
  ggml_backend_tensor_get(tensor, values.data(), 0, values.size() * sizeof(float));
  observer.seen(tensor->name, values, static_cast<std::size_t>(tensor->ne[0]));
  return true;
}

}  // namespace

std::int32_t argmax(std::span<const float> row) {
  return static_cast<std::int32_t>(std::ranges::max_element(row) - row.begin());
}

struct Oracle::Impl {
  OracleOptions options;
  std::string file;
  std::shared_ptr<llama_model> model;
  std::unique_ptr<llama_context, ContextDeleter> context;
  std::size_t vocab_size = 0;
  double seconds = 0;
  // The batch as llama_decode wants it; kept so that decoding does not allocate.
  std::vector<llama_token> tokens;
  std::vector<llama_pos> positions;
  std::vector<std::int32_t> n_seqs;
  std::vector<llama_seq_id*> seqs;
  std::vector<std::int8_t> outputs;

  [[nodiscard]] llama_memory_t memory() const { return llama_get_memory(context.get()); }

  [[nodiscard]] Result<> make_context() {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = options.n_ctx;
    params.n_batch = options.n_batch;
    params.n_ubatch = options.n_ubatch;
    params.n_seq_max = options.n_seq_max;
    params.n_threads = params.n_threads_batch = options.n_threads;
    params.flash_attn_type = to_llama(options.flash);
    params.type_k = to_ggml(options.kv_type.k);
    params.type_v = to_ggml(options.kv_type.v);
    params.kv_unified = options.kv_unified;
    params.swa_full = false;  // as hearth: layers with a sliding window keep what they look back to
    params.offload_kqv = !options.gpu.empty();
    params.op_offload = false;
    params.no_perf = true;
    if (options.observer.wants) {
      params.cb_eval = observe;
      params.cb_eval_user_data = &options.observer;
    }
    context.reset(llama_init_from_model(model.get(), params));
    if (!context) {
      return fail(ErrorCode::kUnsupported, "libllama makes no context of {} cells for {}: {}", options.n_ctx,
                  file, ErrorLog::instance().take());
    }
    return {};
  }

  [[nodiscard]] Result<> run(std::span<const BatchToken> batch) {
    if (batch.empty() || batch.size() > options.n_batch) {
      return fail(ErrorCode::kInvalidArgument, "a batch has 1 to {} tokens, this one {}", options.n_batch,
                  batch.size());
    }
    tokens.clear(), positions.clear(), n_seqs.clear(), seqs.clear(), outputs.clear();
    for (const BatchToken& t : batch) {
      if (t.token < 0 || static_cast<std::size_t>(t.token) >= vocab_size || t.seqs.empty()) {
        return fail(ErrorCode::kInvalidArgument, "token {} of a vocabulary of {}, in {} sequences", t.token,
                    vocab_size, t.seqs.size());
      }
      tokens.push_back(t.token);
      positions.push_back(t.pos);
      n_seqs.push_back(static_cast<std::int32_t>(t.seqs.size()));
      seqs.push_back(const_cast<llama_seq_id*>(t.seqs.data()));  // llama_decode only reads them
      outputs.push_back(t.output ? 1 : 0);
    }
    const llama_batch view{.n_tokens = static_cast<std::int32_t>(batch.size()),
                           .token = tokens.data(),
                           .embd = nullptr,
                           .pos = positions.data(),
                           .n_seq_id = n_seqs.data(),
                           .seq_id = seqs.data(),
                           .logits = outputs.data()};
    const auto start = std::chrono::steady_clock::now();
    const std::int32_t status = llama_decode(context.get(), view);
    llama_synchronize(context.get());
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (status == 1) {
      return fail(ErrorCode::kOutOfMemory, "libllama finds no free cells for {} tokens (n_ctx {})",
                  batch.size(), llama_n_ctx(context.get()));
    }
    if (status != 0) {
      return fail(ErrorCode::kInvalidArgument, "llama_decode returned {}: {}", status,
                  ErrorLog::instance().take());
    }
    return {};
  }

  void append_row(std::size_t index, Logits& to) const {
    const float* row = llama_get_logits_ith(context.get(), static_cast<std::int32_t>(index));
    HEARTH_CHECK(row != nullptr);
    to.values.insert(to.values.end(), row, row + vocab_size);
  }
};

Oracle::Oracle(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Oracle::Oracle(Oracle&&) noexcept = default;
Oracle& Oracle::operator=(Oracle&&) noexcept = default;
Oracle::~Oracle() = default;

Result<Oracle> Oracle::open(const std::filesystem::path& path, const OracleOptions& options) {
  initialize_once();
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->file = path.string();
  ggml_backend_dev_t devices[] = {nullptr, nullptr};
  if (!options.gpu.empty()) {
    devices[0] = ggml_backend_dev_by_name(options.gpu.c_str());
    if (devices[0] == nullptr) return fail(ErrorCode::kNotFound, "ggml has no device {}", options.gpu);
  }
  llama_model_params params = llama_model_default_params();
  params.devices = devices;
  params.n_gpu_layers = options.gpu_layers;
  params.load_mode = options.load == Load::kMmap ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
  params.use_extra_bufts = options.repack;
  llama_model* model = llama_model_load_from_file(impl->file.c_str(), params);
  if (model == nullptr) {
    return fail(ErrorCode::kInvalidFile, "libllama cannot load {}: {}", impl->file,
                ErrorLog::instance().take());
  }
  impl->model.reset(model, llama_model_free);
  impl->vocab_size = static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
  HEARTH_TRY_VOID(impl->make_context());
  return Oracle(std::move(impl));
}

Result<Oracle> Oracle::another(OracleOptions options) const {
  auto impl = std::make_unique<Impl>();
  options.repack = impl_->options.repack;
  options.load = impl_->options.load;
  options.gpu = impl_->options.gpu;
  options.gpu_layers = impl_->options.gpu_layers;
  impl->options = std::move(options);
  impl->file = impl_->file;
  impl->model = impl_->model;
  impl->vocab_size = impl_->vocab_size;
  HEARTH_TRY_VOID(impl->make_context());
  return Oracle(std::move(impl));
}

std::size_t Oracle::n_vocab() const {
  return impl_->vocab_size;
}
std::uint32_t Oracle::n_layer() const {
  return static_cast<std::uint32_t>(llama_model_n_layer(impl_->model.get()));
}
std::uint32_t Oracle::n_embd() const {
  return static_cast<std::uint32_t>(llama_model_n_embd(impl_->model.get()));
}
std::uint32_t Oracle::n_ctx() const {
  return llama_n_ctx(impl_->context.get());
}
std::uint64_t Oracle::model_bytes() const {
  return llama_model_size(impl_->model.get());
}
double Oracle::last_decode_seconds() const {
  return impl_->seconds;
}

Result<Logits> Oracle::decode(std::span<const BatchToken> batch) {
  HEARTH_TRY_VOID(impl_->run(batch));
  Logits logits{.n_vocab = impl_->vocab_size};
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].output) impl_->append_row(i, logits);
  }
  return logits;
}

Result<double> Oracle::timed_decode(std::span<const BatchToken> batch) {
  HEARTH_TRY_VOID(impl_->run(batch));
  return impl_->seconds;
}

Result<Generation> Oracle::greedy(std::span<const std::int32_t> prompt, std::size_t n) {
  HEARTH_CHECK(n >= 1);
  clear();
  Generation result{.tokens = {}, .logits = {.n_vocab = impl_->vocab_size}};
  std::int32_t pos = 0;
  std::vector<BatchToken> batch;
  while (!prompt.empty()) {
    batch.clear();
    const std::size_t count = std::min<std::size_t>(prompt.size(), impl_->options.n_batch);
    for (std::size_t i = 0; i < count; ++i) batch.push_back({.token = prompt[i], .pos = pos++});
    prompt = prompt.subspan(count);
    batch.back().output = prompt.empty();
    HEARTH_TRY_VOID(impl_->run(batch));
  }
  std::size_t last = batch.size() - 1;
  while (true) {
    impl_->append_row(last, result.logits);
    const std::int32_t token = argmax(result.logits.row(result.logits.n_rows() - 1));
    result.tokens.push_back(token);
    if (result.tokens.size() == n) return result;
    const BatchToken next{.token = token, .pos = pos++, .output = true};
    HEARTH_TRY_VOID(impl_->run({&next, 1}));
    last = 0;
  }
}

Result<Logits> Oracle::logits_for_prompt(std::span<const std::int32_t> prompt) {
  clear();
  Logits logits{.n_vocab = impl_->vocab_size};
  std::int32_t pos = 0;
  while (!prompt.empty()) {
    std::vector<BatchToken> batch;
    const std::size_t count = std::min<std::size_t>(prompt.size(), impl_->options.n_batch);
    for (std::size_t i = 0; i < count; ++i)
      batch.push_back({.token = prompt[i], .pos = pos++, .output = true});
    prompt = prompt.subspan(count);
    HEARTH_TRY_VOID(impl_->run(batch));
    for (std::size_t i = 0; i < count; ++i) impl_->append_row(i, logits);
  }
  return logits;
}

void Oracle::clear() {
  llama_memory_clear(impl_->memory(), false);
}
bool Oracle::seq_rm(std::int32_t seq, std::int32_t p0, std::int32_t p1) {
  return llama_memory_seq_rm(impl_->memory(), seq, p0, p1);
}
void Oracle::seq_cp(std::int32_t from, std::int32_t to, std::int32_t p0, std::int32_t p1) {
  llama_memory_seq_cp(impl_->memory(), from, to, p0, p1);
}
void Oracle::seq_keep(std::int32_t seq) {
  llama_memory_seq_keep(impl_->memory(), seq);
}
void Oracle::seq_add(std::int32_t seq, std::int32_t p0, std::int32_t p1, std::int32_t delta) {
  llama_memory_seq_add(impl_->memory(), seq, p0, p1, delta);
}
std::int32_t Oracle::seq_pos_max(std::int32_t seq) const {
  return llama_memory_seq_pos_max(impl_->memory(), seq);
}

std::vector<std::int32_t> Oracle::tokenize(std::string_view text, bool add_special,
                                           bool parse_special) const {
  const llama_vocab* vocab = llama_model_get_vocab(impl_->model.get());
  std::vector<std::int32_t> tokens(text.size() + 8);
  const auto run = [&] {
    return llama_tokenize(vocab, text.data(), static_cast<std::int32_t>(text.size()), tokens.data(),
                          static_cast<std::int32_t>(tokens.size()), add_special, parse_special);
  };
  std::int32_t n = run();
  if (n < 0) {
    tokens.resize(static_cast<std::size_t>(-n));
    n = run();
  }
  tokens.resize(static_cast<std::size_t>(std::max(n, 0)));
  return tokens;
}

std::string Oracle::detokenize(std::span<const std::int32_t> tokens, bool special) const {
  const llama_vocab* vocab = llama_model_get_vocab(impl_->model.get());
  std::string text(tokens.size() * 8 + 16, '\0');
  const auto run = [&] {
    return llama_detokenize(vocab, tokens.data(), static_cast<std::int32_t>(tokens.size()), text.data(),
                            static_cast<std::int32_t>(text.size()), false, special);
  };
  std::int32_t n = run();
  if (n < 0) {
    text.resize(static_cast<std::size_t>(-n));
    n = run();
  }
  text.resize(static_cast<std::size_t>(std::max(n, 0)));
  return text;
}

}  // namespace hearth::oracle

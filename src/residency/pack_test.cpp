// What a pack holds: the model's weights, in a layout that gives the same bits.
#include "residency/pack.h"

#include <cstring>
#include <string>
#include <vector>

#include <ggml-backend.h>
#include <ggml.h>
#include <gtest/gtest.h>

#include "residency/pack_layout.h"
#include "residency/repack.h"
#include "residency/resident_source.h"
#include "residency/test_packs.h"

namespace hearth::residency {
namespace {

using model::Role;
using model::SegmentId;
using test::Bytes;
using test::Packing;
using test::read_file;
using testing::small_spec;
using testing::test_model;
using testing::value_of;

// F16, 256 values: 512 bytes a row, so a block of the head, 8 MiB less 64 KiB, has 16256 rows at most; 40000
// rows are three blocks of 13376.
synth::SynthSpec large_head() {
  synth::SynthSpec spec = small_spec("llama", "F16");
  spec.shape.n_layer = 1;
  spec.shape.n_vocab = 40'000;
  return spec;
}

TEST(Pack, PlainTensorsAreTheFilesBytes) {
  synth::SynthSpec split = small_spec("qwen2", "Q4_K_M");
  split.split_files = 3;
  synth::SynthSpec tied = small_spec("qwen3", "Q8_0");
  tied.shape.tied = true;
  synth::SynthSpec factors = small_spec("llama", "Q4_0");
  factors.rope_freqs = true;
  for (const auto& spec : {split, tied, factors, large_head()}) {
    Packing p(test_model(spec));
    p.options.repack = false;
    if (spec.arch == "qwen2") p.options.max_block_bytes = 20'000;  // layers in blocks of rows, too
    const PackFile pack = p.make();
    EXPECT_EQ(p.packed, p.to_pack);
    std::uint64_t end = 0;
    for (const SegmentId id : p.all()) {
      const PackSegment& segment = pack.segment(id);
      ASSERT_TRUE(segment.present);
      EXPECT_TRUE(pack.verify(id));
      EXPECT_TRUE(end == 0 || segment.offset == end) << "layers are contiguous";
      end = segment.offset + segment.bytes;
      Bytes joined;  // blocks of rows are the rows of one tensor
      std::size_t i = 0;
      for (const model::SegmentTensor& t : p.model.segment(id)) {
        joined.clear();
        for (; i < segment.tensors.size() && segment.tensors[i].role == t.role; ++i) {
          const PackTensor& tensor = segment.tensors[i];
          EXPECT_EQ(tensor.layout, "");
          EXPECT_EQ(tensor.offset % 4096, 0U);
          const auto bytes = pack.bytes().subspan(tensor.offset, tensor.bytes);
          EXPECT_TRUE(matches(tensor, bytes));
          joined.insert(joined.end(), bytes.begin(), bytes.end());
        }
        EXPECT_EQ(joined,
                  read_file(p.model.file().paths()[t.tensor->file_index], t.tensor->offset, t.tensor->bytes))
            << t.tensor->name;
      }
      EXPECT_EQ(i, segment.tensors.size());
    }
    EXPECT_EQ(end, std::filesystem::file_size(pack.path()));
  }
}

TEST(Pack, OutputHeadComesInBlocksOfRows) {
  Packing p(test_model(large_head()));
  const PackHeader layout = value_of(pack_layout(p.model, p.backend->device(), true));
  const auto& tensors = layout.find(SegmentId::output())->tensors;
  ASSERT_EQ(tensors.size(), 4U);
  EXPECT_EQ(tensors[0].role, Role::kOutputNorm);
  EXPECT_EQ(tensors[1].row_begin, 0U);
  EXPECT_EQ(tensors[1].row_end, 13'376U);
  EXPECT_EQ(tensors[2].row_begin, 13'376U);
  EXPECT_EQ(tensors[2].row_end, 26'752U);
  EXPECT_EQ(tensors[3].row_end, 40'000U);
}

// The same header and device give the same places, whatever is present.
TEST(Pack, LayersCanBeAddedLater) {
  Packing p(test_model(small_spec("llama", "Q4_K_M")));
  const PackFile first = p.make({SegmentId::of_layer(5), SegmentId::of_layer(2)});
  EXPECT_EQ(p.packed,
            first.segment(SegmentId::of_layer(2)).bytes + first.segment(SegmentId::of_layer(5)).bytes);
  EXPECT_TRUE(first.segment(SegmentId::of_layer(5)).present);
  EXPECT_FALSE(first.segment(SegmentId::of_layer(3)).present);
  EXPECT_EQ(first.verify(SegmentId::of_layer(3)).error().code, ErrorCode::kInvalidFile);
  const PackFile more = p.make({SegmentId::of_layer(2), SegmentId::of_layer(3)});
  EXPECT_EQ(p.packed, more.segment(SegmentId::of_layer(3)).bytes);
  EXPECT_EQ(more.path(), first.path());
  EXPECT_TRUE(more.segment(SegmentId::of_layer(5)).present);
  EXPECT_EQ(more.header().identity, first.header().identity);
  (void)p.make({SegmentId::of_layer(2)});
  EXPECT_EQ(p.to_pack, 0U);
}

// --- the same bits
// --------------------------------------------------------------------------------------------

// weight x rows of made-up activations.
std::vector<float> product(compute::Backend& backend, const TensorPlace& place, std::uint32_t type,
                           std::uint64_t row_values, std::uint64_t n_rows, std::int64_t n_tokens) {
  const ContextPtr ctx = make_context(8, ggml_graph_overhead());
  ggml_tensor* weight =
      ggml_new_tensor_2d(ctx.get(), static_cast<ggml_type>(type), static_cast<std::int64_t>(row_values),
                         static_cast<std::int64_t>(n_rows));
  weight->data = place.data;
  weight->buffer = place.buffer;
  weight->extra = place.extra;
  ggml_tensor* x = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, weight->ne[0], n_tokens);
  ggml_tensor* y = ggml_mul_mat(ctx.get(), weight, x);
  std::vector<float> in(static_cast<std::size_t>(ggml_nelements(x)));
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>((i * 37) % 101) / 50.0F - 1;
  std::vector<float> out(static_cast<std::size_t>(ggml_nelements(y)));
  const BufferPtr in_buffer(ggml_backend_buft_alloc_buffer(backend.buffer_type(), ggml_nbytes(x)));
  const BufferPtr out_buffer(ggml_backend_buft_alloc_buffer(backend.buffer_type(), ggml_nbytes(y)));
  ggml_backend_tensor_alloc(in_buffer.get(), x, ggml_backend_buffer_get_base(in_buffer.get()));
  ggml_backend_tensor_alloc(out_buffer.get(), y, ggml_backend_buffer_get_base(out_buffer.get()));
  ggml_backend_tensor_set(x, in.data(), 0, ggml_nbytes(x));
  ggml_cgraph* graph = ggml_new_graph_custom(ctx.get(), 8, false);
  ggml_build_forward_expand(graph, y);
  value_of(backend.compute(graph));
  ggml_backend_tensor_get(y, out.data(), 0, ggml_nbytes(y));
  return out;
}

// Every matrix computed from the pack's mapping and from ResidentSource's memory: equal bits.
TEST(Pack, ComputesWhatResidentSourceComputes) {
  std::size_t n_repacked = 0;
  for (const char* type : {"Q4_0", "Q4_K_M", "Q8_0", "F16"}) {
    SCOPED_TRACE(type);
    synth::SynthSpec spec = small_spec("llama", type);
    spec.shape.n_layer = 2;
    if (std::string(type) == "F16") spec = large_head();
    if (std::string(type) == "Q4_0") {  // 144 bytes a row: three blocks
      spec.shape.n_vocab = 120'000;
      spec.shape.tied = true;
    }
    Packing p(test_model(spec));
    const PackFile pack = p.make();
    const auto resident = value_of(ResidentSource::load(p.model, p.all(), p.backend->device(),
                                                        {.repack = true, .progress = {}, .cancelled = {}}));
    const BufferPtr plain(ggml_backend_dev_buffer_from_host_ptr(
        p.backend->device(), const_cast<std::uint8_t*>(pack.bytes().data()), pack.bytes().size(),
        pack.bytes().size()));
    LayoutHandles handles(p.backend->device());
    for (const SegmentId id : p.all()) {
      const auto places = value_of(resident->acquire(id, 0));
      std::size_t j = 0;
      for (std::size_t i = 0; i < places.size(); ++i) {
        const model::SegmentTensor& t = p.model.segment(id)[i];
        const auto& tensors = pack.segment(id).tensors;
        if (model::is_vector(t.role)) {
          ASSERT_EQ(tensors[j].role, t.role);
          ++j;
          continue;
        }
        for (const std::int64_t n_tokens : {1, 5}) {
          const auto wanted = product(*p.backend, places[i], static_cast<std::uint32_t>(t.tensor->type),
                                      static_cast<std::uint64_t>(t.tensor->ne[0]),
                                      static_cast<std::uint64_t>(t.tensor->ne[1]), n_tokens);
          const auto n_rows = static_cast<std::size_t>(t.tensor->ne[1]);
          std::size_t block = j;
          for (; block < tensors.size() && tensors[block].role == t.role; ++block) {
            const PackTensor& tensor = tensors[block];
            const std::uint64_t rows = tensor.row_end - tensor.row_begin;
            TensorPlace place{.data = nullptr, .buffer = plain.get(), .extra = nullptr};
            if (!tensor.layout.empty()) {
              place = value_of(handles.place(tensor.layout, tensor.ggml_type, tensor.shape()));
              ++n_repacked;
            }
            place.data = const_cast<std::uint8_t*>(pack.bytes().data()) + tensor.offset;
            const auto got = product(*p.backend, place, tensor.ggml_type, tensor.row_values, rows, n_tokens);
            for (std::int64_t token = 0; token < n_tokens; ++token)
              ASSERT_EQ(
                  std::memcmp(got.data() + static_cast<std::size_t>(token) * rows,
                              wanted.data() + static_cast<std::size_t>(token) * n_rows + tensor.row_begin,
                              rows * sizeof(float)),
                  0)
                  << t.tensor->name << " rows from " << tensor.row_begin;
          }
          if (n_tokens == 5) j = block;
        }
      }
      ASSERT_EQ(j, pack.segment(id).tensors.size());
      resident->release(id, 0);
    }
  }
  std::cout << "[ figures  ] " << n_repacked << " products with repacked weights\n";
}

TEST(Pack, ALayoutThatTheDeviceHasNotIsAnError) {
  Packing p(test_model(small_spec("llama", "F16")));
  LayoutHandles handles(p.backend->device());
  EXPECT_EQ(handles.place("NO_SUCH_LAYOUT", GGML_TYPE_Q4_0, {.row_values = 64, .rows = 64}).error().code,
            ErrorCode::kUnsupported);
}

// Two ways to the same pack.
TEST(Pack, BytesDoNotDependOnTheOrderOfBuilding) {
  const auto path = test_model(small_spec("llama", "Q4_0"));
  Packing at_once(path), by_layer(path);
  const PackFile wanted = at_once.make();
  auto ids = by_layer.all();
  for (auto id = ids.rbegin(); id != ids.rend(); ++id) (void)by_layer.make({*id});
  const PackFile got = by_layer.make();
  EXPECT_EQ(got.path().filename(), wanted.path().filename());
  EXPECT_EQ(read_file(got.path()), read_file(wanted.path()));
}

}  // namespace
}  // namespace hearth::residency

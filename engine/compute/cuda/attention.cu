// Attention over KV blocks in one pass (FlashAttention, Dao 2022, algorithm 1). A warp
// has one row and head. It goes through the positions that the row sees in tiles of 32,
// which begin at multiples of 32: first each lane has a position and sums q·k over the
// dimensions, then each lane has dimensions of the output and sums the tile's weighted
// values. The warps of a block share a KV head and what they bring of it to shared memory.
//
// Positions are cut into spans at multiples of kSpan (as Flash-Decoding does, Dao et al.
// 2023): each has a softmax of its own, and they are merged in their order. Where there
// are few rows, spans are computed by blocks of their own and merged by a second kernel;
// else one warp goes through them all and merges as it goes. It is the same arithmetic:
// a row's result depends on nothing but its own position and sequence.
#include <bit>

#include "engine/compute/cuda/kv.cuh"

namespace hostler {
namespace {

constexpr int kWarps = 8;
constexpr int kTile = 32;   // positions
constexpr int kSpan = 512;  // positions, whole tiles
constexpr int kPart = 128;  // dimensions in shared memory at a time
constexpr int kPartLanes = kPart / kWarpLanes;
constexpr int kStride = kPart + 1;  // lanes that read one dimension meet in no bank
// So many blocks keep a GPU busy: spans need not be spread.
constexpr int64_t kEnoughBlocks = 256;
constexpr size_t kMostScratchFloats = size_t{16} << 20;

struct Params {
  DeviceAttention spec;
  DeviceBatch batch;
  DeviceKv kv;
  const float* q = nullptr;
  float* out = nullptr;
  int group = 0;             // query heads of a KV head
  int spans = 0;             // of each row and head in `partial`; 0: they are not spread
  float* partial = nullptr;  // [rows, heads, spans, 2 + v_dim]: largest, sum, out
};

// [kWarps] queries, a tile's keys or values, [kWarps] tiles' weights.
__host__ __device__ constexpr size_t SharedFloatsFor(int k_dim) {
  return size_t(kWarps) * k_dim + kTile * kStride + kWarps * kTile;
}

__device__ int FirstSeen(const DeviceAttention& spec, int position) {
  int first = 0;
  if (spec.window > 0 && position - spec.window + 1 > first) first = position - spec.window + 1;
  if (spec.chunk > 0 && position / spec.chunk * spec.chunk > first) {
    first = position / spec.chunk * spec.chunk;
  }
  return first;
}

__device__ int PositionOf(const DeviceBatch& batch, int row) {
  const DeviceSequence& sequence = batch.sequences[batch.row_sequences[row]];
  return sequence.first_position + row - sequence.first_row;
}

// The softmax over some positions, and the values by it. A lane has dimensions
// lane + 32 i of `out`; kWide of them at most.
template <int kWide>
struct Softmax {
  float largest = -Infinity(), sum = 0;
  float out[kWide] = {};

  // By how much everything counts less now that there is a score as large as `most`; 0 if
  // there was nothing.
  __device__ float Raise(float most) {
    const float next = most > largest ? most : largest;
    const float before = largest > -Infinity() ? expf(largest - Base(next)) : 0.0f;
    largest = next;
    return before;
  }
  // Scores may all be -infinity.
  __device__ static float Base(float largest) { return largest > -Infinity() ? largest : 0.0f; }

  // Of later positions. What has no weight leaves every bit as it is.
  __device__ void Merge(const Softmax& part) {
    if (part.sum == 0) return;
    const float before = Raise(part.largest);
    const float by = part.largest > -Infinity() ? expf(part.largest - Base(largest)) : 0.0f;
    sum = sum * before + part.sum * by;
#pragma unroll
    for (int i = 0; i < kWide; ++i) out[i] = Fma(part.out[i], by, out[i] * before);
  }

  // With the head's sink, if there are any.
  __device__ void Finish(const Params& p, int row, int head) {
    if (p.spec.sinks != nullptr && p.spec.sinks[head] > -Infinity()) {
      const float sink = p.spec.sinks[head];
      const float before = Raise(sink);
      sum = sum * before + expf(sink - largest);
#pragma unroll
      for (int i = 0; i < kWide; ++i) out[i] *= before;
    }
    float* const to = p.out + (int64_t{row} * p.spec.heads + head) * p.kv.v_dim;
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      const int d = static_cast<int>(threadIdx.x) % kWarpLanes + i * kWarpLanes;
      if (d < p.kv.v_dim) to[d] = out[i] / sum;
    }
  }

  __device__ static float* PlaceOf(const Params& p, int row, int head, int span) {
    const int64_t index = (int64_t{row} * p.spec.heads + head) * p.spans + span;
    return p.partial + index * (2 + p.kv.v_dim);
  }
  __device__ void Write(float* to, int v_dim) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
    if (lane == 0) {
      to[0] = largest;
      to[1] = sum;
    }
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      if (lane + i * kWarpLanes < v_dim) to[2 + lane + i * kWarpLanes] = out[i];
    }
  }
  __device__ void Read(const float* from, int v_dim) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
    largest = from[0];
    sum = from[1];
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      const int d = lane + i * kWarpLanes;
      out[i] = d < v_dim ? from[2 + d] : 0.0f;
    }
  }
};

// A warp's row and head in it.
struct Pair {
  bool there = false;
  int row = 0, head = 0, position = -1, first_seen = 0;

  __device__ Pair(const Params& p, int index, int kv_head) {
    there = index < p.batch.rows * p.group;
    row = there ? index / p.group : 0;
    head = kv_head * p.group + index % p.group;
    position = there ? PositionOf(p.batch, row) : -1;
    first_seen = there ? FirstSeen(p.spec, position) : 0;
  }
};

// Dimensions [part, part + kPart) of keys or values of the tile's positions that are
// within [first, last]. By all threads of the block.
template <DType type, bool keys>
__device__ void BringTile(const DeviceKv& kv, const int32_t* blocks, int kv_head, int tile,
                          int first, int last, int part, float* shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int left = (keys ? kv.k_dim : kv.v_dim) - part;
  const int dims = left < kPart ? left : kPart;
  __syncthreads();
  for (int t = warp; t < kTile && tile + t <= last; t += kWarps) {
    if (tile + t < first) continue;
    const uint8_t* from =
        keys ? kv.k_row(blocks, tile + t, kv_head) : kv.v_row(blocks, tile + t, kv_head);
    for (int d = lane; d < dims; d += kWarpLanes) {
      shared[t * kStride + d] = KvValue<type>(from, part + d);
    }
  }
  __syncthreads();
}

// Sums of their own: less is lost of each than of one long one.
__device__ float PartOfScore(const float* query, const float* key, int dims) {
  float sums[4] = {};
  int d = 0;
  for (; d + 4 <= dims; d += 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] = Fma(query[d + i], key[d + i], sums[i]);
  }
  for (; d < dims; ++d) sums[0] = Fma(query[d], key[d], sums[0]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// kWide: values that each lane has, at most. Grid: units of kWarps (row, head) pairs;
// KV heads; spans, or one.
// Two blocks at once, where that leaves a thread enough registers; left to itself the compiler
// takes too few and spills.
template <DType type, int kWide>
__global__ void __launch_bounds__(kWarps* kWarpLanes, type == DType::kQ8_0 && kWide > 8 ? 1 : 2)
    AttentionKernel(Params p) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const DeviceKv& kv = p.kv;
  const int k_dim = kv.k_dim, v_dim = kv.v_dim;
  float* const query = SharedFloats() + warp * k_dim;
  float* const shared = SharedFloats() + kWarps * k_dim;
  float* const weights = shared + kTile * kStride + warp * kTile;
  const int kv_head = static_cast<int>(blockIdx.y);

  // The block's pairs: of consecutive rows, all heads of a group.
  const int first_pair = static_cast<int>(blockIdx.x) * kWarps;
  const int pairs = p.batch.rows * p.group;
  const Pair pair(p, first_pair + warp, kv_head);
  for (int d = lane; pair.there && d < k_dim; d += kWarpLanes) {
    query[d] = p.q[(int64_t{pair.row} * p.spec.heads + pair.head) * k_dim + d] * p.spec.scale;
  }

  Softmax<kWide> all, span;
  // Sequences of the block's rows, one after another.
  const int first_row = first_pair / p.group;
  const int last_row = ((first_pair + kWarps < pairs ? first_pair + kWarps : pairs) - 1) / p.group;
  const int own = pair.there ? p.batch.row_sequences[pair.row] : -1;
  for (int s = p.batch.row_sequences[first_row]; s <= p.batch.row_sequences[last_row]; ++s) {
    const DeviceSequence& sequence = p.batch.sequences[s];
    const int32_t* blocks = p.batch.blocks + sequence.first_block;
    const int from_row = sequence.first_row > first_row ? sequence.first_row : first_row;
    const int sequence_last = sequence.first_row + sequence.rows - 1;
    int last = PositionOf(p.batch, sequence_last < last_row ? sequence_last : last_row);
    int first = FirstSeen(p.spec, PositionOf(p.batch, from_row));
    if (p.spans > 0) {
      const int begin = static_cast<int>(blockIdx.z) * kSpan;
      first = first > begin ? first : begin;
      last = last < begin + kSpan - 1 ? last : begin + kSpan - 1;
    }
    for (int tile = first / kTile * kTile; tile <= last; tile += kTile) {
      if (p.spans == 0 && tile % kSpan == 0) {
        all.Merge(span);
        span = {};
      }
      const bool uses = own == s && tile <= pair.position && tile + kTile > pair.first_seen;
      float score = 0;
      for (int part = 0; part < k_dim; part += kPart) {
        BringTile<type, true>(kv, blocks, kv_head, tile, first, last, part, shared);
        const int dims = k_dim - part < kPart ? k_dim - part : kPart;
        if (uses) score += PartOfScore(query + part, shared + lane * kStride, dims);
      }
      if (uses) {
        const bool seen = tile + lane >= pair.first_seen && tile + lane <= pair.position;
        if (p.spec.soft_cap > 0) score = Capped(score, p.spec.soft_cap);
        const float before = span.Raise(WarpMax(seen ? score : -Infinity()));
        const float weight = seen ? expf(score - span.Base(span.largest)) : 0.0f;
        span.sum = span.sum * before + WarpSum(weight);
        weights[lane] = weight;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < kWide; ++i) span.out[i] *= before;
      }
      const int begin = pair.first_seen > tile ? pair.first_seen - tile : 0;
      const int end = pair.position - tile < kTile - 1 ? pair.position - tile + 1 : kTile;
#pragma unroll
      for (int part = 0; part < kWide / kPartLanes; ++part) {
        if (part * kPart >= v_dim) break;
        BringTile<type, false>(kv, blocks, kv_head, tile, first, last, part * kPart, shared);
        for (int t = begin; uses && t < end; ++t) {
          const float by = weights[t];
#pragma unroll
          for (int i = 0; i < kPartLanes; ++i) {
            const int d = lane + i * kWarpLanes;
            float& out = span.out[part * kPartLanes + i];
            if (part * kPart + d < v_dim) out = Fma(by, shared[t * kStride + d], out);
          }
        }
      }
    }
  }
  if (!pair.there) return;
  if (p.spans == 0) {
    all.Merge(span);
    return all.Finish(p, pair.row, pair.head);
  }
  const int mine = static_cast<int>(blockIdx.z);
  if (mine < pair.first_seen / kSpan || mine > pair.position / kSpan) return;
  span.Write(span.PlaceOf(p, pair.row, pair.head, mine), v_dim);
}

// Grid: rows, heads. A warp merges a row's spans.
template <int kWide>
__global__ void MergeKernel(Params p) {
  const int row = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  const int position = PositionOf(p.batch, row);
  Softmax<kWide> all, part;
  for (int s = FirstSeen(p.spec, position) / kSpan; s <= position / kSpan; ++s) {
    part.Read(part.PlaceOf(p, row, head, s), p.kv.v_dim);
    all.Merge(part);
  }
  all.Finish(p, row, head);
}

unsigned Units(const Params& p) {
  return static_cast<unsigned>((p.batch.rows * p.group + kWarps - 1) / kWarps);
}

int64_t PartialFloats(const DeviceAttention& spec, const DeviceBatch& batch, int v_dim, int spans) {
  return int64_t{batch.rows} * spec.heads * spans * (2 + v_dim);
}

template <DType type, int kWide>
void LaunchWide(Launcher& launcher, const Params& p, const Uses& uses, Mat out) {
  const Shape shape = {
      dim3(Units(p), static_cast<unsigned>(p.kv.kv_heads), p.spans > 0 ? unsigned(p.spans) : 1u),
      dim3(kWarps * kWarpLanes), SharedFloatsFor(p.kv.k_dim) * sizeof(float)};
  launcher.Run(shape, uses, &AttentionKernel<type, kWide>, p);
  if (p.spans == 0) return;
  const DeviceRange partial =
      RangeOf(p.partial, PartialFloats(p.spec, p.batch, p.kv.v_dim, p.spans));
  launcher.Run({.grid = dim3(static_cast<unsigned>(p.batch.rows), unsigned(p.spec.heads)),
                .block = dim3(kWarpLanes),
                .independent = true},
               {{partial}, {RangeOf(out)}}, &MergeKernel<kWide>, p);
}

template <DType type>
void LaunchOf(Launcher& launcher, const Params& p, const Uses& uses, Mat out) {
  const int wide = (p.kv.v_dim + kWarpLanes - 1) / kWarpLanes;
  if (wide <= 4) return LaunchWide<type, 4>(launcher, p, uses, out);
  if (wide <= 8) return LaunchWide<type, 8>(launcher, p, uses, out);
  LaunchWide<type, kMostValueDim / kWarpLanes>(launcher, p, uses, out);
}

static_assert(SharedFloatsFor(kMostKeyDim) * sizeof(float) <= 48 << 10);

// Of few sizes, by the longest context: steps are to be like one another. 0: not spread.
int SpansOf(const DeviceAttention& spec, const DeviceBatch& batch, const KvLayout& layout) {
  const int spans = static_cast<int>(std::bit_ceil(unsigned(batch.last_position) / kSpan + 1));
  const bool few = spec.window > 0 && spec.window <= kSpan;
  const int64_t pairs = int64_t{batch.rows} * (spec.heads / layout.kv_heads);
  const int64_t blocks = (pairs + kWarps - 1) / kWarps * layout.kv_heads;
  const int64_t floats = PartialFloats(spec, batch, layout.v_dim, spans);
  const bool fits = static_cast<size_t>(floats) <= kMostScratchFloats && spans <= 65535;
  return spans == 1 || few || blocks >= kEnoughBlocks || !fits ? 0 : spans;
}

}  // namespace

size_t AttentionScratchFloats(const DeviceAttention& spec, const DeviceBatch& batch,
                              const KvLayout& layout) {
  return static_cast<size_t>(
      PartialFloats(spec, batch, layout.v_dim, SpansOf(spec, batch, layout)));
}

void LaunchAttention(Launcher& launcher, const DeviceAttention& spec, const DeviceBatch& batch,
                     int layer, Mat q, const KvView& kv, float* scratch, Mat out) {
  const int spans = SpansOf(spec, batch, kv.layout);
  const Params p = {spec,
                    batch.ForKernels(),
                    DeviceKv::Of(kv, layer),
                    q.data,
                    out.data,
                    spec.heads / kv.layout.kv_heads,
                    spans,
                    scratch};
  // Written where it is not spread, or to what is merged.
  const DeviceRange written =
      spans == 0 ? RangeOf(out)
                 : RangeOf(scratch, PartialFloats(spec, batch, kv.layout.v_dim, spans));
  const Uses uses = {{RangeOf(q), RangeOf(kv, batch), RangeOf(batch.positions, batch.rows)},
                     {written}};
  switch (kv.layout.dtype) {
    case DType::kF32:
      return LaunchOf<DType::kF32>(launcher, p, uses, out);
    case DType::kF16:
      return LaunchOf<DType::kF16>(launcher, p, uses, out);
    case DType::kBF16:
      return LaunchOf<DType::kBF16>(launcher, p, uses, out);
    default:
      return LaunchOf<DType::kQ8_0>(launcher, p, uses, out);
  }
}

}  // namespace hostler

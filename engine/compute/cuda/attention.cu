// Attention over KV blocks in one pass (FlashAttention, Dao 2022, algorithm 1). A warp
// has one row and head. It goes through the positions that the row sees in tiles of 32,
// which begin at multiples of 32: first each lane has a position and sums q·k over the
// dimensions, then each lane has dimensions of the output and sums the tile's weighted
// values. So a row's result depends on nothing but its own position and sequence.
// The warps of a block share a KV head and the keys that they bring to shared memory.
#include "engine/compute/cuda/kv.cuh"

namespace hostler {
namespace {

constexpr int kWarps = 8;
constexpr int kTile = 32;              // positions
constexpr int kPart = 128;             // dimensions of keys in shared memory at a time
constexpr int kKeyStride = kPart + 1;  // lanes that read one dimension meet in no bank

struct Params {
  DeviceAttention spec;
  DeviceBatch batch;
  DeviceKv kv;
  const float* q = nullptr;
  float* out = nullptr;
  int group = 0;  // query heads of a KV head
};

// [kWarps] queries, a tile's keys, [kWarps] tiles' weights.
__host__ __device__ constexpr size_t SharedFloatsFor(int k_dim) {
  return size_t(kWarps) * k_dim + kTile * kKeyStride + kWarps * kTile;
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

// kWide: values that each lane has, at most. Grid: units of kWarps (row, head) pairs of
// a sequence; KV heads.
template <DType type, int kWide>
__global__ void __launch_bounds__(kWarps* kWarpLanes) AttentionKernel(Params p) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const DeviceKv& kv = p.kv;
  const int k_dim = kv.k_dim, v_dim = kv.v_dim;
  float* const queries = SharedFloats();
  float* const keys = queries + kWarps * k_dim;
  float* const weights = keys + kTile * kKeyStride + warp * kTile;
  const int kv_head = static_cast<int>(blockIdx.y);

  // The block's pairs: of consecutive rows, all heads of a group.
  const int first_pair = static_cast<int>(blockIdx.x) * kWarps;
  const int last_pair_end = p.batch.rows * p.group;
  const int pair = first_pair + warp;
  const bool there = pair < last_pair_end;
  const int row = there ? pair / p.group : 0;
  const int head = kv_head * p.group + pair % p.group;
  const int position = there ? PositionOf(p.batch, row) : -1;
  const int first_seen = there ? FirstSeen(p.spec, position) : 0;
  float* const query = queries + warp * k_dim;
  for (int d = lane; there && d < k_dim; d += kWarpLanes) {
    query[d] = p.q[(int64_t{row} * p.spec.heads + head) * k_dim + d] * p.spec.scale;
  }

  float largest = -Infinity(), sum = 0;
  float out[kWide];
#pragma unroll
  for (int i = 0; i < kWide; ++i) out[i] = 0;
  if (there && p.spec.sinks != nullptr) {
    largest = p.spec.sinks[head];
    sum = largest > -Infinity() ? 1.0f : 0.0f;
  }

  // Sequences of the block's rows, one after another.
  const int first_row = first_pair / p.group;
  const int end_pair = first_pair + kWarps < last_pair_end ? first_pair + kWarps : last_pair_end;
  const int last_row = (end_pair - 1) / p.group;
  const int own = there ? p.batch.row_sequences[row] : -1;
  for (int s = p.batch.row_sequences[first_row]; s <= p.batch.row_sequences[last_row]; ++s) {
    const DeviceSequence& sequence = p.batch.sequences[s];
    const int32_t* blocks = p.batch.blocks + sequence.first_block;
    const int from_row = sequence.first_row > first_row ? sequence.first_row : first_row;
    const int sequence_last = sequence.first_row + sequence.rows - 1;
    const int to_row = sequence_last < last_row ? sequence_last : last_row;
    const int last = PositionOf(p.batch, to_row);
    const int first = FirstSeen(p.spec, PositionOf(p.batch, from_row));
    for (int tile = first / kTile * kTile; tile <= last; tile += kTile) {
      const int mine = tile + lane;
      const bool uses = own == s && tile <= position && tile + kTile > first_seen;
      float score = 0;
      for (int part = 0; part < k_dim; part += kPart) {
        const int dims = k_dim - part < kPart ? k_dim - part : kPart;
        __syncthreads();
        for (int t = warp; t < kTile && tile + t <= last; t += kWarps) {
          if (tile + t < first) continue;
          const uint8_t* k = kv.k_row(blocks, tile + t, kv_head);
          for (int d = lane; d < dims; d += kWarpLanes) {
            keys[t * kKeyStride + d] = KvValue<type>(k, part + d);
          }
        }
        __syncthreads();
        if (!uses) continue;
        // Sums of their own: less is lost of each than of one long one.
        const float* const key = keys + lane * kKeyStride;
        float sums[4] = {};
        int d = 0;
        for (; d + 4 <= dims; d += 4) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[i] = Fma(query[part + d + i], key[d + i], sums[i]);
        }
        for (; d < dims; ++d) sums[0] = Fma(query[part + d], key[d], sums[0]);
        score += (sums[0] + sums[1]) + (sums[2] + sums[3]);
      }
      if (!uses) continue;
      const bool seen = mine >= first_seen && mine <= position;
      if (p.spec.soft_cap > 0) score = Capped(score, p.spec.soft_cap);
      const float most = WarpMax(seen ? score : -Infinity());
      const float next = most > largest ? most : largest;
      // Scores may all be -infinity.
      const float base = next > -Infinity() ? next : 0.0f;
      const float weight = seen ? expf(score - base) : 0.0f;
      const float before = largest > -Infinity() ? expf(largest - base) : 0.0f;
      largest = next;
      sum = sum * before + WarpSum(weight);
      __syncwarp();
      weights[lane] = weight;
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kWide; ++i) out[i] *= before;
      const int begin = first_seen > tile ? first_seen - tile : 0;
      const int end = position - tile < kTile - 1 ? position - tile + 1 : kTile;
      for (int t = begin; t < end; ++t) {
        const uint8_t* v = kv.v_row(blocks, tile + t, kv_head);
        const float by = weights[t];
#pragma unroll
        for (int i = 0; i < kWide; ++i) {
          const int d = lane + i * kWarpLanes;
          if (d < v_dim) out[i] = Fma(by, KvValue<type>(v, d), out[i]);
        }
      }
    }
  }
  if (!there) return;
#pragma unroll
  for (int i = 0; i < kWide; ++i) {
    const int d = lane + i * kWarpLanes;
    if (d < v_dim) p.out[(int64_t{row} * p.spec.heads + head) * v_dim + d] = out[i] / sum;
  }
}

template <DType type>
void LaunchOf(Launcher& launcher, const Params& p, const Uses& uses) {
  const int units = (p.batch.rows * p.group + kWarps - 1) / kWarps;
  const Shape shape = {dim3(static_cast<unsigned>(units), static_cast<unsigned>(p.kv.kv_heads)),
                       dim3(kWarps * kWarpLanes), SharedFloatsFor(p.kv.k_dim) * sizeof(float)};
  const int wide = (p.kv.v_dim + kWarpLanes - 1) / kWarpLanes;
  if (wide <= 4) return launcher.Run(shape, uses, &AttentionKernel<type, 4>, p);
  if (wide <= 8) return launcher.Run(shape, uses, &AttentionKernel<type, 8>, p);
  launcher.Run(shape, uses, &AttentionKernel<type, kMostValueDim / kWarpLanes>, p);
}

static_assert(SharedFloatsFor(kMostKeyDim) * sizeof(float) <= 48 << 10);

}  // namespace

void LaunchAttention(Launcher& launcher, const DeviceAttention& spec, const DeviceBatch& batch,
                     int layer, Mat q, const KvView& kv, Mat out) {
  const Params p = {spec,   batch.ForKernels(), DeviceKv::Of(kv, layer),
                    q.data, out.data,           spec.heads / kv.layout.kv_heads};
  const Uses uses = {{RangeOf(q), RangeOf(kv, batch), RangeOf(batch.positions, batch.rows)},
                     {RangeOf(out)}};
  switch (kv.layout.dtype) {
    case DType::kF32:
      return LaunchOf<DType::kF32>(launcher, p, uses);
    case DType::kF16:
      return LaunchOf<DType::kF16>(launcher, p, uses);
    case DType::kBF16:
      return LaunchOf<DType::kBF16>(launcher, p, uses);
    default:
      return LaunchOf<DType::kQ8_0>(launcher, p, uses);
  }
}

}  // namespace hostler

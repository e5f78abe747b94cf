#include "engine/compute/cuda/kv.cuh"

namespace hostler {
namespace {

constexpr int kThreads = 128;
constexpr int kRun = 32;  // dimensions that a thread writes; a block of q8_0

// As QuantizeQ8_0 (quantize.h) has it. Values past `count` are zeros.
__device__ void PutQ8(const float* values, int count, uint8_t* out) {
  unsigned most = 0;
  for (int i = 0; i < count; ++i) {
    const unsigned magnitude = __float_as_uint(values[i]) & 0x7fffffffu;
    if (magnitude > most) most = magnitude;
  }
  const bool finite = most < 0x7f800000u;
  const float scale = finite ? __uint_as_float(most) / 127.0f : __uint_as_float(0x7fc00000u);
  const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
  const uint16_t half = FloatToHalfBits(scale);
  const bool usable = (half & 0x7c00) != 0x7c00 && inverse < Infinity();
  out[0] = static_cast<uint8_t>(half);
  out[1] = static_cast<uint8_t>(half >> 8);
  for (int i = 0; i < kRun; ++i) {
    int q = 0;
    if (usable && i < count) {
      const float scaled = values[i] * inverse;
      q = static_cast<int>(scaled);
      const float rest = scaled - static_cast<float>(q);
      q += (rest >= 0.5f ? 1 : 0) - (rest <= -0.5f ? 1 : 0);
    }
    out[2 + i] = static_cast<uint8_t>(q);
  }
}

__device__ void Put(DType type, const float* values, int first, int dim, uint8_t* row) {
  const int count = dim - first < kRun ? dim - first : kRun;
  if (type == DType::kQ8_0) return PutQ8(values + first, count, row + first / kRun * 34);
  for (int i = first; i < first + count; ++i) {
    if (type == DType::kF32) {
      reinterpret_cast<float*>(row)[i] = values[i];
    } else {
      reinterpret_cast<uint16_t*>(row)[i] =
          type == DType::kF16 ? FloatToHalfBits(values[i]) : FloatToBf16Bits(values[i]);
    }
  }
}

__global__ void AppendKvKernel(DType type, DeviceKv kv, DeviceBatch batch, Mat k, Mat v) {
  const int k_runs = (kv.k_dim + kRun - 1) / kRun;
  const int v_runs = kv.v_in_k ? 0 : (kv.v_dim + kRun - 1) / kRun;
  const int runs = k_runs + v_runs;
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int run = static_cast<int>(index % runs);
  const int head = static_cast<int>(index / runs % kv.kv_heads);
  const int64_t row = index / runs / kv.kv_heads;
  if (row >= batch.rows) return;
  const DeviceSequence& sequence = batch.sequences[batch.row_sequences[row]];
  const int32_t* blocks = batch.blocks + sequence.first_block;
  const int position = sequence.first_position + static_cast<int>(row) - sequence.first_row;
  if (run < k_runs) {
    Put(type, k.row(row) + head * kv.k_dim, run * kRun, kv.k_dim, kv.k_row(blocks, position, head));
  } else {
    Put(type, v.row(row) + head * kv.v_dim, (run - k_runs) * kRun, kv.v_dim,
        kv.v_row(blocks, position, head));
  }
}

}  // namespace

void LaunchAppendKv(Launcher& launcher, const DeviceBatch& batch, int layer, Mat k, Mat v,
                    const KvView& kv) {
  const KvLayout& layout = kv.layout;
  const int64_t runs =
      (layout.k_dim + kRun - 1) / kRun + (layout.v_in_k ? 0 : (layout.v_dim + kRun - 1) / kRun);
  const int64_t threads = batch.rows * runs * layout.kv_heads;
  launcher.Run(
      {.grid = dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads)),
       .block = dim3(kThreads),
       .independent = true},
      {{RangeOf(k), RangeOf(v), RangeOf(batch.positions, batch.rows)}, {RangeOf(kv, batch)}},
      &AppendKvKernel, layout.dtype, DeviceKv::Of(kv, layer), batch.ForKernels(), k, v);
}

}  // namespace hostler

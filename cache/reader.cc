#include "cache/reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "cache/read_plan.h"
#include "cache/reader_pread.h"
#include "cache/reader_uring.h"
#include "cache/tier.h"

namespace hostler {

absl::StatusOr<std::unique_ptr<Reader>> NewReader(std::span<const std::string> paths,
                                                  const ReaderOptions& options) {
  if (options.depth < 1) {
    return absl::InvalidArgumentError(
        fmt::format("{} reads at once, must be at least 1", options.depth));
  }
  absl::StatusOr<OpenFiles> files = OpenFiles::Open(paths, options.direct);
  if (!files.ok()) return std::move(files).status();
  const SlotClass buffers{BounceBytes(options.max_bytes, options.max_extents), options.depth};
  absl::StatusOr<std::unique_ptr<Tier>> bounce = NewDramTier({&buffers, 1});
  if (!bounce.ok()) return std::move(bounce).status();
  if (options.method != ReaderOptions::Method::kPread) {
    auto reader = NewUringReader(*files, *bounce, options.depth);
    if (reader.ok() || options.method == ReaderOptions::Method::kUring) return reader;
  }
  return NewPreadReader(*std::move(files), *std::move(bounce), options.depth);
}

ReaderOptions ReaderOptionsFor(const ExpertStore& store) {
  ReaderOptions options;
  for (int layer = 0; layer < store.num_layers(); ++layer) {
    for (int expert = 0; expert < store.num_experts(layer); ++expert) {
      const std::span<const Extent> extents = store.extents({layer, expert});
      if (ReadsInPlace(extents)) continue;
      options.max_bytes = std::max(options.max_bytes, TotalBytes(extents));
      options.max_extents = std::max(options.max_extents, static_cast<int>(extents.size()));
    }
  }
  return options;
}

absl::Status ReadNow(Reader& reader, std::span<const Extent> extents, std::span<std::byte> out) {
  reader.Start(0, extents, out);
  Reader::Done done;
  if (!reader.Wait(&done)) return absl::CancelledError("the reader was stopped");
  return std::move(done.status);
}

}  // namespace hostler
